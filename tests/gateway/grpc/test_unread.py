"""Answers that nobody reads, with a client that sends calls and grants gRPC no room to answer them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.errors import ResourceExhausted
from gateway.grpc.sockets import peer_of
from gateway.grpc.unread import Unread
from tests.fakes import http2

_SIZE = 1 << 20


@asynccontextmanager
async def serving(unread: Unread, size: int = _SIZE) -> AsyncIterator[int]:
    """A server of one method; gives its port."""

    async def answer(_: bytes, context: Any) -> bytes:
        unread.hold_for_task(context, size)
        return bytes(size)

    server = grpc.aio.server()
    handlers = {"Large": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Answers", handlers),))
    port = server.add_insecure_port("localhost:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def call(port: int) -> bytes:
    async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
        answer: bytes = await channel.unary_unary("/test.Answers/Large")(b"")
        return answer


def ask(port: int, calls: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(
        http2.PREFACE + b"".join(http2.call(2 * number + 1, "/test.Answers/Large", b"") for number in range(calls))
    )
    return sock


async def until_gone(sock: socket.socket) -> int:
    """Reads to the end of the connection without a word about it; gives how much came."""
    sock.setblocking(False)
    count = 0
    async with asyncio.timeout(20):
        while data := await asyncio.get_running_loop().sock_recv(sock, 65_536):
            count += len(data)
    return count


async def until(unread: Unread, held_bytes: int) -> None:
    async with asyncio.timeout(5):
        while unread.held_bytes != held_bytes:  # noqa: ASYNC110 - the hot path sets no event
            await asyncio.sleep(0.01)


def test_an_answer_that_is_read_is_forgotten() -> None:
    async def scenario() -> None:
        unread = Unread(max_bytes=0, stall_seconds=0.1)
        async with serving(unread) as port:
            assert len(await call(port)) == _SIZE
            await until(unread, 0)
            unread.check()

    asyncio.run(scenario())


def test_a_connection_whose_answers_are_not_read_is_cut() -> None:
    """And nobody else's; its calls end, and what they held is given back."""

    async def scenario() -> None:
        cuts: list[None] = []
        unread = Unread(
            max_bytes=1 << 30, stall_seconds=0.2, bytes_per_second=1 << 30, on_cut=lambda: cuts.append(None)
        )
        async with serving(unread) as port:
            async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
                await channel.unary_unary("/test.Answers/Large")(b"")
                with ask(port, calls=5) as sock:
                    assert await until_gone(sock) < 2 * 65_535 + 1000
                assert len(await channel.unary_unary("/test.Answers/Large")(b"")) == _SIZE
            await until(unread, 0)
            assert len(cuts) == 1

    asyncio.run(scenario())


def test_what_may_still_come_at_the_least_rate_is_waited_for() -> None:
    """A megabyte at 100 kB/s has ten seconds, however short the time for a small answer is."""

    async def scenario() -> None:
        cuts: list[None] = []
        unread = Unread(
            max_bytes=1 << 30, stall_seconds=0.05, bytes_per_second=100_000, on_cut=lambda: cuts.append(None)
        )
        async with serving(unread) as port:
            with ask(port, calls=1):
                await asyncio.sleep(0.5)
                assert not cuts
                assert unread.held_bytes == _SIZE

    asyncio.run(scenario())


def test_beyond_the_budget_no_request_is_worked_on() -> None:
    async def scenario() -> None:
        unread = Unread(max_bytes=3 * _SIZE, stall_seconds=60)
        async with serving(unread) as port:
            with ask(port, calls=4):
                await until(unread, 4 * _SIZE)
                with pytest.raises(ResourceExhausted, match="unread answers"):
                    unread.check()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ipv4:127.0.0.1:40000", ("127.0.0.1", 40000)),
        ("ipv6:%5B::1%5D:40000", ("::1", 40000)),
        ("ipv6:[::ffff:10.0.0.7]:443", ("10.0.0.7", 443)),
    ],
)
def test_a_clients_address_is_read_as_grpc_writes_it(text: str, peer: tuple[str, int]) -> None:
    assert peer_of(text) == peer
