"""Calls that came and wait to be taken up: nobody's are refused because of another's. On real sockets.

The kind: calls that all come at once, of any method, while the event loop is busy for a moment. C core keeps them in
one queue, and refuses some of all of them where it is longer than it likes (1,000 calls) unless it is told otherwise.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from tests.fakes import http2
from tests.gateway.grpc.test_arriving import STREAM, UNARY, message, serving

CONNECTIONS, STREAMS = 32, 100


@contextmanager
def busy() -> Iterator[tuple[int, threading.Event]]:
    """A server whose event loop does nothing until the event is set; its port."""
    going, begun, ended = threading.Event(), threading.Event(), threading.Event()
    port = 0

    async def run() -> None:
        nonlocal port
        async with serving() as world:
            port = world.port
            async with world.connect() as channel:
                await channel.unary_unary(UNARY)(b"", timeout=10)
            begun.set()
            going.wait()
            while not ended.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert begun.wait(20)
        yield port, going
    finally:
        going.set()
        ended.set()
        thread.join()


@pytest.mark.parametrize("path", [UNARY, STREAM, "/test.Echo/Nothing"])
def test_calls_of_one_caller_cost_nobody_theirs(path: str) -> None:
    """A burst from one address, taken in by C core before anybody else calls; each of the others is answered."""
    with busy() as (port, going), ExitStack() as held:
        for _ in range(CONNECTIONS):
            there = ("127.0.0.2", 0)
            sock = held.enter_context(socket.create_connection(("127.0.0.1", port), source_address=there))
            calls = (http2.half(1 + 2 * number, path, 10) for number in range(STREAMS))
            sock.sendall(http2.PREFACE + http2.settled() + b"".join(calls) + http2.ping())
            until_ping(sock)
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_retries", 0)]) as channel:
            grpc.channel_ready_future(channel).result(10)
            asked = [channel.unary_unary(UNARY).future(message(), timeout=20) for _ in range(20)]
            going.set()
            assert {str(call.code()) for call in asked} == {str(grpc.StatusCode.OK)}


@pytest.mark.parametrize("count", [1, STREAMS])
def test_who_leaves_fills_no_log(count: int, caplog: pytest.LogCaptureFixture) -> None:
    """Clients that go while their answers have no room: an error with a trace for each would be theirs to spend."""
    no_room = http2.frame(4, 0, 0, struct.pack(">HI", 4, 0))
    with busy() as (port, going), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)) as sock:
            calls = (http2.call(1 + 2 * number, UNARY, message()) for number in range(count))
            sock.sendall(http2.PREFACE + no_room + http2.settled() + b"".join(calls) + http2.ping())
            until_ping(sock)
            going.set()
            for _ in range(5):  # those that came before are taken up by then
                assert channel.unary_unary(UNARY)(message(), timeout=20)
        for _ in range(50):
            assert channel.unary_unary(UNARY)(message(), timeout=20)
    assert "Traceback" not in caplog.text


def until_ping(sock: socket.socket) -> None:
    """Until the server has answered a ping: what was sent before has come."""
    sock.settimeout(10)
    data = b""
    while True:
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            if data[3] == 6 and data[4] == 1:
                return
            data = data[9 + int.from_bytes(data[:3], "big") :]
        more = sock.recv(1 << 16)
        assert more, "the server has closed the connection"
        data += more
