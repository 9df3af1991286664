"""What came over a connection and is no whole message: who ends for it, and who does not. On real sockets.

The kind: bytes that C core takes in and tells nobody of. They are messages of open streams that never end, whatever
the stream, and frames of HTTP/2 that are no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from gateway.errors import DuetError
from gateway.grpc import server, sockets
from gateway.grpc.arriving import Arriving, Bounds, Line, Stream, over
from gateway.grpc.calls import Call, Calls, Limits
from gateway.grpc.crowding import Places
from gateway.grpc.unread import Unread
from gateway.logging import NoAccessLog
from gateway.metrics import Metrics
from gateway.observation import Observer
from gateway.protos import health_pb2 as pb
from gateway.security.proxies import Proxies
from tests.fakes import http2

UNARY, STREAM = "/test.Echo/Unary", "/test.Echo/Stream"
MIB = 1 << 20
BOUNDS = Bounds(each=4 * MIB, total=10 * MIB, seconds=60.0, max_message_bytes=2 * MIB)
PLACES = Places()

pytestmark = pytest.mark.skipif(not sockets.can_count(), reason="this system does not count a connection's bytes")


class World:
    def __init__(self, port: int) -> None:
        self.port = port
        self.cuts: list[str] = []

    def connect(self, host: str = "127.0.0.1") -> grpc.aio.Channel:
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.insecure_channel(f"{host}:{self.port}", options)

    async def cut(self) -> str:
        async with asyncio.timeout(10):
            while not self.cuts:  # noqa: ASYNC110 - nobody waits for it but tests
                await asyncio.sleep(0.01)
        return self.cuts[0]


@asynccontextmanager
async def serving(
    bounds: Bounds = BOUNDS, host: str = "127.0.0.1", *, places: Places = PLACES, proxies: Proxies | None = None
) -> AsyncIterator[World]:
    """A server of a unary call and a stream that answer with the size of what was sent."""
    world = World(0)
    arriving = Arriving(bounds, on_cut=world.cuts.append, places=places, proxies=proxies)
    observer = Observer(metrics=Metrics(CollectorRegistry()), access_log=NoAccessLog())
    limits = Limits(max_message_bytes=bounds.max_message_bytes, receive_seconds=60)
    calls = Calls(observer, unread=Unread(max_bytes=1 << 30), limits=limits, arriving=arriving)

    async def size(request: pb.HealthCheckRequest, _: Call) -> pb.HealthCheckRequest:
        return pb.HealthCheckRequest(service=str(len(request.service)))

    def in_band(error: DuetError, _: object) -> pb.HealthCheckRequest:
        return pb.HealthCheckRequest(service=error.code.name)

    request = pb.HealthCheckRequest
    services = {
        "test.Echo": {
            "Unary": calls.unary(size, request, path=UNARY),
            "Stream": calls.stream(size, request, path=STREAM, front="", in_band=in_band),
        }
    }
    made = server.build(
        services, max_message_bytes=bounds.max_message_bytes, ending=calls.ending, arriving=arriving, max_streams=100
    )
    world.port = made.add_insecure_port(f"{host}:0")
    await made.start()
    try:
        yield world
    finally:
        await made.stop(None)


def message(size: int = 1) -> bytes:
    return pb.HealthCheckRequest(service="x" * size).SerializeToString()


async def code_of(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(10):
        code: grpc.StatusCode = await call.code()
        return code


async def ask(stream: Any, size: int = 1) -> bytes:
    await stream.write(message(size))
    async with asyncio.timeout(10):
        return bytes(await stream.read())


async def push(port: int, path: str, calls: int, size: int, seconds: float = 2.0, host: str = "127.0.0.1") -> set[int]:
    """Half messages; gives the streams that were ended. OSError where the connection was."""

    def run() -> set[int]:
        with socket.create_connection((host, port)) as sock:
            return http2.push_halves(sock, path, calls, size, seconds=seconds)

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=pytest.mark.full)])
def test_streams_of_one_caller_hold_no_more_than_its_share(host: str) -> None:
    """In IPv4 and IPv6. Streams of others, and a stream of the same caller that goes on, do not end for it."""

    async def scenario() -> None:
        async with serving(host=host) as world, world.connect(host) as channel:
            stream = channel.stream_stream(STREAM)()
            assert await ask(stream)
            pushing = asyncio.create_task(push(world.port, STREAM, 10, 2 * MIB, host=host.strip("[]")))
            while not pushing.done():
                assert await ask(stream, 1000)
            assert len(await pushing) == 10
            assert not world.cuts
            await stream.done_writing()
            assert await code_of(stream) is grpc.StatusCode.OK

    asyncio.run(scenario())


def test_the_share_is_over_all_connections() -> None:
    """Each connection is within it, two of them are not: one of the two ends."""

    async def scenario() -> None:
        async with serving() as world:
            ended = await asyncio.gather(*(push(world.port, STREAM, 2, 3 * MIB // 2, seconds=0.6) for _ in range(2)))
            assert sorted(map(len, ended)) == [0, 2]

    asyncio.run(scenario())


@pytest.mark.full
def test_a_half_message_ends_when_it_is_late() -> None:
    """Though its caller is within its share."""

    async def scenario() -> None:
        async with serving(Bounds(4 * MIB, 10 * MIB, 0.5, 2 * MIB)) as world:
            assert len(await push(world.port, STREAM, 1, 2 * MIB)) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [pytest.param(100, marks=pytest.mark.full), 100_000, 3 * MIB // 2])
def test_messages_that_are_whole_hold_nothing(size: int) -> None:
    """Twenty times the share, over one stream and by unary calls on its connection, while another stream is idle."""

    async def scenario() -> None:
        async with serving() as world, world.connect() as channel:
            idle, busy = channel.stream_stream(STREAM)(), channel.stream_stream(STREAM)()
            assert await ask(idle)
            unary = channel.unary_unary(UNARY)
            for _ in range(min(300, 40 * MIB // size)):
                assert await ask(busy, size)
                assert await unary(message(size))
            assert await ask(idle)
            assert not world.cuts

    asyncio.run(scenario())


def line(caller: str, *held: int) -> Line:
    """A connection with a stream for each size, which is the most that can have come of its message."""
    made = Line("peer:10.0.0.1")
    made.received = sum(held)
    for size in held:
        stream = Stream(Arriving(), made, caller)
        stream.begun = made.received - size
        made.streams[stream] = None
    return made


@pytest.mark.parametrize(
    ("lines", "ends"),
    [
        pytest.param([("a", 3), ("b", 3)], [], id="within"),
        pytest.param([("a", 5), ("b", 3)], ["a"], id="beyond its share"),
        pytest.param([("a", 1), ("a", 2), ("a", 3)], ["a"], id="beyond it on several connections: the largest"),
        pytest.param([("a", 4), ("b", 4), ("c", 3)], ["a"], id="all together"),
        pytest.param([("a", 3, 2), ("b", 1)], [], id="the same bytes may be of either stream"),
    ],
)
def test_who_ends(lines: list[tuple[Any, ...]], ends: list[str]) -> None:
    made = [line(caller, *(size * MIB for size in held)) for caller, *held in lines]
    assert [stream.caller for stream in over(made, BOUNDS, now=0.0)] == ends


def test_what_is_small_or_ended_is_left_alone() -> None:
    made = line("a", 64 << 10, 5 * MIB)
    ends = over([made], BOUNDS, now=0.0)
    assert [stream.held for stream in ends] == [5 * MIB]
    for stream, why in ends.items():
        stream.end(0.0, why)
    assert not over([made], BOUNDS, now=0.0)


def test_messages_of_unary_calls_are_counted_by_themselves() -> None:
    """While they are read they are no reason to end a stream of the same connection."""
    made = line("a", 5 * MIB)
    made.reading = 2 * MIB
    assert not over([made], BOUNDS, now=0.0)
    made.reading = 0
    assert len(over([made], BOUNDS, now=0.0)) == 1


def test_whole_messages_make_no_room_in_advance() -> None:
    """Compressed, they are more when they are handed over than when they came."""
    made = line("a", 0)
    made.handed_over(100 * MIB)
    made.settle()
    made.received += 5 * MIB
    assert made.most() == 5 * MIB
    made.handed_over(MIB)
    assert 4 * MIB > made.most() > 3.9 * MIB


def test_a_descriptor_that_is_used_again_is_another_connection() -> None:
    """And sockets that were not accepted on the port, or that are gone, are none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ports = {listening.getsockname()[1]}
        known, found = sockets.look_around({}, ports)
        assert not found
        peers = []
        for _ in range(2):
            with socket.create_connection(listening.getsockname()) as client, listening.accept()[0] as accepted:
                known, found = sockets.look_around(known, ports)
                assert [each.peer for each in found] == [client.getsockname()]
                assert found[0].sock.detach() == accepted.fileno()
                client.sendall(b"12345")
                assert accepted.recv(5) == b"12345"
                assert sockets.counts(accepted)[1] == 5
                assert sockets.look_around(known, ports)[1] == []
                peers.append((accepted.fileno(), found[0].peer))
        assert peers[0][0] == peers[1][0]
        assert peers[0][1] != peers[1][1]


#: Frames that are no message, for a connection without a call.
FRAMES = {
    "WINDOW_UPDATE": http2.frame(8, 0, 0, struct.pack(">I", 1)),
    "PRIORITY": http2.frame(2, 0, 1, bytes(5)),
    "of a kind that nobody knows": http2.frame(0xBE, 0, 0, bytes(100)),
}


async def flood(sock: socket.socket, frame: bytes) -> None:
    """Sends it until the connection is gone. (Its other end may take nothing more, and not say so.)"""
    loop, whole = asyncio.get_running_loop(), memoryview(frame * 5_000)
    left = whole
    reading = asyncio.create_task(until_gone(sock))
    async with asyncio.timeout(10):
        while not reading.done():
            try:
                left = left[sock.send(left) :] or whole
                await asyncio.sleep(0)
            except BlockingIOError:
                await asyncio.wait([reading], timeout=0.01)
            except OSError:
                break
    loop.call_soon(reading.cancel)
    await asyncio.wait([reading])


async def until_gone(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(sock, 65_536):
            pass


@pytest.mark.parametrize(
    "kind", ["WINDOW_UPDATE", *(pytest.param(k, marks=pytest.mark.full) for k in list(FRAMES)[1:])]
)
def test_a_flood_of_frames_ends_its_connection(kind: str) -> None:
    """With no call at all. Others' connections, from the same address, stay. A few thousand frames are no flood."""

    async def scenario() -> None:
        async with serving() as world, world.connect() as channel:
            assert await channel.unary_unary(UNARY)(message())
            with socket.create_connection(("127.0.0.1", world.port)) as sock:
                sock.setblocking(False)
                begin = http2.PREFACE + http2.settled() + 3_000 * FRAMES[kind]
                await asyncio.get_running_loop().sock_sendall(sock, begin)
                await asyncio.sleep(0.6)
                assert not world.cuts
                await flood(sock, FRAMES[kind])
                assert world.cuts == ["flood"]
            assert await channel.unary_unary(UNARY)(message())

    asyncio.run(scenario())
