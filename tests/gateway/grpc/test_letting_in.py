"""How a call is let in: a place, who calls, its quota, its message. On a real server, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from gateway.errors import DuetError
from gateway.grpc import server
from gateway.grpc.admission import Admission, Unknown
from gateway.grpc.arriving import Arriving
from gateway.grpc.calls import Call, Calls, Limits
from gateway.grpc.unread import Unread
from gateway.logging import NoAccessLog
from gateway.metrics import Metrics
from gateway.observation import Observer
from gateway.protos import health_pb2 as pb
from gateway.security.gate import Allowance, Callers, Gate
from gateway.security.grants import Grants
from gateway.security.jwks import FRESH_SECONDS, Jwks
from gateway.security.ledger import Alone
from gateway.security.quotas import Quotas
from gateway.security.tokens import Tokens
from tests.security import issuer

UNARY, STREAM, OPEN, EMPTY = ("/test.Echo/Unary", "/test.Echo/Stream", "/test.Echo/Open", "/test.Echo/Empty")
SLOW = pb.HealthCheckRequest(service="slow").SerializeToString()
MAX_MESSAGE_BYTES = 1 << 20


class Issuer:
    """An issuer of tokens, its keys and the time."""

    def __init__(self) -> None:
        self.now = issuer.NOW
        self.keys = ("rsa", "ec")
        self._jwks = Jwks(self._fetched, clock=lambda: self.now)
        tokens = Tokens(
            self._jwks,
            issuer=issuer.ISSUER,
            audience=issuer.AUDIENCE,
            algorithms=("RS256", "ES256"),
            time=lambda: self.now,
        )
        subjects = Callers("token", [Allowance("*", Grants(("predict:*",)), None)])
        self.admission = Admission(Gate(quotas=Quotas(Alone()), tokens=tokens, subjects=subjects))

    async def _fetched(self) -> bytes:
        return issuer.jwks(*self.keys)

    def end_tokens(self) -> None:
        self.now += 400

    def take_key_back(self) -> None:
        self.keys = ("ec",)
        self.now += FRESH_SECONDS


@asynccontextmanager
async def serving(admission: Admission | None = None, **limits: Any) -> AsyncIterator[tuple[grpc.aio.Channel, Calls]]:
    """A server of one call of each kind, and a channel to it."""
    observer = Observer(metrics=Metrics(CollectorRegistry()), access_log=NoAccessLog())
    given = {"max_message_bytes": MAX_MESSAGE_BYTES, **limits}
    calls = Calls(observer, unread=Unread(max_bytes=1 << 30), admission=admission, limits=Limits(**given))

    async def echo(request: pb.HealthCheckRequest, _: Call) -> pb.HealthCheckRequest:
        if request.service == "slow":
            await asyncio.sleep(0.3)
        return request

    def in_band(error: DuetError, _: object) -> pb.HealthCheckRequest:
        return pb.HealthCheckRequest(service=error.code.name)

    request = pb.HealthCheckRequest
    services = {
        "test.Echo": {
            "Unary": calls.unary(echo, request, path=UNARY),
            "Stream": calls.stream(echo, request, path=STREAM, front="", in_band=in_band),
            "Open": calls.unary(echo, request, path=OPEN, everybody=True),
            "Empty": calls.unary(echo, request, path=EMPTY, everybody=True, empty=True),
        }
    }
    unknown = Unknown(admission, observer, Arriving()) if admission else None
    made = server.build(services, max_message_bytes=MAX_MESSAGE_BYTES, ending=calls.ending, unknown=unknown)
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, calls
    finally:
        await made.stop(None)


async def code_of(call: Any) -> grpc.StatusCode:
    async with asyncio.timeout(10):
        code: grpc.StatusCode = await call.code()
        return code


async def read_if_any(stream: Any) -> Any:
    """A stream that has failed has nothing to read either."""
    try:
        return await stream.read()
    except grpc.aio.AioRpcError:
        return grpc.aio.EOF


@pytest.mark.parametrize("end", [Issuer.end_tokens, Issuer.take_key_back], ids=["it ends", "its key is taken back"])
def test_a_token_is_looked_at_for_each_message_of_a_stream(end: Callable[[Issuer], None]) -> None:
    """What was asked before it ended is still answered."""

    async def scenario() -> None:
        world = Issuer()
        async with serving(world.admission) as (channel, _):
            metadata = (("authorization", f"Bearer {issuer.token(exp=int(issuer.NOW) + 300)}"),)
            if end is Issuer.take_key_back:
                metadata = (("authorization", f"Bearer {issuer.token(exp=int(issuer.NOW) + 10_000)}"),)
            stream = channel.stream_stream(STREAM)(metadata=metadata)
            await stream.write(b"")
            assert await stream.read() == b""
            await stream.write(SLOW)
            await asyncio.sleep(0.1)
            end(world)
            await stream.write(b"")
            assert await stream.read() == SLOW
            # Keys that are old are fetched in the background; until then they count.
            while await read_if_any(stream) is not grpc.aio.EOF:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await stream.write(b"")
            assert await code_of(stream) is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(scenario())


@pytest.mark.parametrize("path", [UNARY, STREAM, "/test.Echo/Nothing", "/test.Nobody/Unary"])
def test_who_shows_nothing_is_told_no_more(path: str) -> None:
    """Not even which methods there are; one who may call hears that."""

    async def scenario() -> None:
        async with serving(Issuer().admission) as (channel, _):
            assert await code_of(channel.stream_stream(path)()) is grpc.StatusCode.UNAUTHENTICATED
            call = channel.stream_stream(path)(metadata=(("authorization", f"Bearer {issuer.token()}"),))
            await call.done_writing()
            known = {UNARY: grpc.StatusCode.INVALID_ARGUMENT, STREAM: grpc.StatusCode.OK}
            assert await code_of(call) is known.get(path, grpc.StatusCode.UNIMPLEMENTED)

    asyncio.run(scenario())


def test_without_keys_an_address_has_its_share_and_gets_it_back() -> None:
    """Streams, unary calls whose message is on its way, and calls that are worked on are all alike."""

    async def scenario() -> None:
        async with serving(max_calls=6, caller_share=0.5) as (channel, calls):
            stream = channel.stream_stream(STREAM)()
            await stream.write(b"")
            await stream.read()
            half = channel.stream_stream(UNARY)()
            await half.wait_for_connection()
            slow = channel.unary_unary(UNARY)(SLOW)
            while calls._places.held < 3:  # noqa: ASYNC110 - the hot path sets no event
                await asyncio.sleep(0.01)
            for path in (UNARY, STREAM):
                assert await code_of(channel.stream_stream(path)()) is grpc.StatusCode.RESOURCE_EXHAUSTED
            for path in (OPEN, EMPTY):
                assert await channel.unary_unary(path)(b"") == b""
            stream.cancel()
            half.cancel()
            assert await slow == SLOW
            while calls._places.held:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await channel.unary_unary(UNARY)(b"") == b""

    asyncio.run(scenario())


@pytest.mark.parametrize("path", [UNARY, OPEN])
def test_a_message_that_does_not_come_is_not_waited_for(path: str) -> None:
    """Of a call that everybody may make, and of one that takes a place."""

    async def scenario() -> None:
        async with serving(receive_seconds=0.2) as (channel, _):
            call = channel.stream_stream(path)()
            assert await code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "grpc.receive_seconds" in await call.details()
            assert await channel.unary_unary(path)(b"") == b""

    asyncio.run(scenario())


def test_a_message_that_is_always_empty_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with serving(receive_seconds=30) as (channel, _):
            call = channel.stream_stream(EMPTY)()
            async with asyncio.timeout(10):
                assert await call.read() == b""

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "size"), [(UNARY, MAX_MESSAGE_BYTES + 1), (OPEN, MAX_MESSAGE_BYTES + 1), (OPEN, 5000)]
)
def test_a_message_that_is_too_large_is_refused(path: str, size: int) -> None:
    """What everybody may send is small."""

    async def scenario() -> None:
        async with serving() as (channel, _):
            call = channel.unary_unary(path)(pb.HealthCheckRequest(service="x" * size).SerializeToString())
            assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await channel.unary_unary(path)(b"") == b""

    asyncio.run(scenario())


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "at work"])
def test_a_stream_ends_when_it_is_idle_and_not_while_it_is_at_work(busy: bool) -> None:
    async def scenario() -> None:
        async with serving(stream_idle_seconds=0.1) as (channel, _):
            stream = channel.stream_stream(STREAM)()
            await stream.write(SLOW if busy else b"")
            assert await stream.read() == (SLOW if busy else b"")
            assert await code_of(stream) is grpc.StatusCode.UNAVAILABLE
            assert "grpc.stream_idle_seconds" in await stream.details()

    asyncio.run(scenario())
