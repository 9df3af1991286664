"""Whose gRPC connection makes way. The kind: connections that one address holds, whatever they do with them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.grpc import sockets
from gateway.grpc.crowding import Places, beyond
from gateway.security.proxies import Proxies
from tests.fakes import http2
from tests.gateway.grpc.test_arriving import UNARY, serving


@dataclass(eq=False)
class Fake:
    caller: str
    proxy: str | None = None


def made(*counts: tuple[str, int], proxy: str | None = None) -> list[Fake]:
    return [Fake(caller, proxy) for caller, count in counts for _ in range(count)]


@pytest.mark.parametrize(
    ("counts", "cut"),
    [
        ([("a", 100), ("b", 3)], {"a": 0}),
        ([("a", 101), ("b", 3)], {"a": 1}),
        ([("a", 500), ("b", 101), ("c", 1)], {"a": 400, "b": 1}),
    ],
    ids=["a share", "one more", "two callers"],
)
def test_one_caller_has_its_share(counts: Sequence[tuple[str, int]], cut: dict[str, int]) -> None:
    """The newest ones make way, and nobody else's."""
    connections = made(*counts)
    gone = beyond(connections, Places(400, 0.25))
    assert {caller: sum(one.caller == caller for one in gone) for caller in cut} == cut
    assert len(gone) == sum(cut.values())
    for caller in cut:
        own = [one for one in connections if one.caller == caller]
        assert [one in gone for one in own] == sorted(one in gone for one in own)


def test_who_holds_most_makes_way_where_all_places_are_taken() -> None:
    """Whoever has few keeps them. Of the others each keeps the same number."""
    connections = made(("a", 90), ("b", 80), ("c", 3), ("d", 1))
    kept = [one.caller for one in connections if one not in beyond(connections, Places(100, 1.0))]
    assert {caller: kept.count(caller) for caller in "abcd"} == {"a": 48, "b": 48, "c": 3, "d": 1}


def test_more_callers_than_places() -> None:
    """The newest ones are cut, as C core would have done."""
    connections = made(*((f"caller {number}", 1) for number in range(200)))
    assert beyond(connections, Places(150, 0.25)) == connections[150:]


def test_a_trusted_proxy_has_no_share() -> None:
    """Its callers are many. All the same it makes way where all places are taken."""
    assert not beyond(made(("a", 350), proxy="192.0.2.1"), Places(400, 0.25))
    assert len(beyond(made(("a", 500), proxy="192.0.2.1"), Places(400, 0.25))) == 100


pytestmark = pytest.mark.skipif(not sockets.can_count(), reason="this system does not count a connection's bytes")


@pytest.mark.parametrize("said", [b"", http2.PREFACE, http2.PREFACE[:10]], ids=["silent", "idle", "half a preface"])
def test_one_address_does_not_take_every_place(said: bytes) -> None:
    """It is cut down to its share, the newest first, while another address is served on connections old and new."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with serving(places=Places(80, 0.25)) as world, world.connect() as channel:
            assert await channel.unary_unary(UNARY)(b"", timeout=10) is not None
            attackers = []
            for _ in range(120):
                sock = socket.socket()
                sock.setblocking(False)
                sock.bind(("127.0.0.2", 0))
                await loop.sock_connect(sock, ("127.0.0.1", world.port))
                await loop.sock_sendall(sock, said)
                attackers.append(sock)
            try:
                await until(lambda: len(world.cuts) >= 56)
                assert set(world.cuts) == {"crowded"}
                await until(lambda: sum(map(is_closed, attackers)) == 56)
                assert not any(map(is_closed, attackers[:40]))
                assert await channel.unary_unary(UNARY)(b"", timeout=10) is not None
                async with world.connect() as another:
                    assert await another.unary_unary(UNARY)(b"", timeout=10) is not None
                assert len(world.cuts) == 56
            finally:
                for sock in attackers:
                    sock.close()

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody waits for it but tests
            await asyncio.sleep(0.01)


def is_closed(sock: socket.socket) -> bool:
    """Whether the server has ended it, whatever it said before: TCP's own state (linux/tcp_states.h) tells."""
    established = 1
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != established


def test_looking_for_listeners_leaves_nothing_open() -> None:
    """Files and pipes are among the descriptors that are looked at."""
    with socket.create_server(("127.0.0.1", 0)) as sock, Path(__file__).open():
        sockets.listeners([0])  # whatever is loaded the first time
        before = set(os.listdir("/dev/fd"))
        assert sockets.listeners([sock.getsockname()[1]]) == [sock.fileno()]
        assert set(os.listdir("/dev/fd")) == before


def test_a_proxy_takes_more() -> None:
    """The same connections, from a trusted proxy, where there are places."""

    async def run() -> None:
        proxies = Proxies([ip_network("127.0.0.2")], "x-forwarded-for")
        async with serving(places=Places(400, 0.1), proxies=proxies) as world, world.connect() as channel:
            held = [
                socket.create_connection(("127.0.0.1", world.port), source_address=("127.0.0.2", 0)) for _ in range(90)
            ]
            try:
                await asyncio.sleep(0.3)
                assert await channel.unary_unary(UNARY)(b"", timeout=10) is not None
                assert not world.cuts
            finally:
                for sock in held:
                    sock.close()

    asyncio.run(run())
