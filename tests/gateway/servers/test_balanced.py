from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gateway.errors import DeadlineExceeded, DuetError, NotFound, ResourceExhausted, Unavailable
from gateway.layers.breaker import Breaker, Policy
from gateway.layers.signals import Signals
from gateway.servers.balanced import Balanced, resolve_host
from gateway.servers.torchserve.faults import TORCHSERVE
from gateway.types import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Rows,
    ServerBatching,
    Signature,
    Tensor,
    VersionMetadata,
)

pytestmark = pytest.mark.anyio

REQUEST = InferRequest("m", (Tensor("x", "FP32", np.ones(1, np.float32)),), version=1)


class Endpoint:
    """One address. It has the versions in ``ready``; ``failure`` is what every call meets, ``silent`` makes it mute."""

    def __init__(self, ready: Collection[int] = (1,), default: int | None = 1) -> None:
        self.ready = ready
        self.default = default
        self.failure: DuetError | None = None
        self.silent = False
        self.hold: asyncio.Event | None = None
        self.calls = 0
        self.closed = False
        self.pending = 0
        self.seconds = 0.0
        self.rows = Rows.INDEPENDENT
        self.batching: ServerBatching | None = None
        self.tick: Callable[[float], None] = lambda seconds: None

    async def infer(self, request: InferRequest) -> InferResponse:
        self.calls += 1
        self.tick(self.seconds)
        if self.hold:
            await self.hold.wait()
        if self.failure:
            raise self.failure
        return InferResponse(request.model, "v", 1, request.inputs)

    async def metadata(self, model: str) -> ModelMetadata:
        if self.silent:
            await asyncio.sleep(60)
        if self.failure:
            raise self.failure
        signatures = {"f": Signature((), (), rows=self.rows)}
        versions = {
            number: VersionMetadata(number, ready=True, signatures=signatures, batching=self.batching)
            for number in self.ready
        }
        return ModelMetadata(model, "v", "p", versions, self.default, pending=self.pending)

    async def models(self) -> Collection[str] | None:
        if self.failure:
            raise self.failure
        return ["m"]

    async def aclose(self) -> None:
        self.closed = True


class World:
    """Addresses that come and go, and the endpoints behind them."""

    def __init__(self, **endpoints: Endpoint) -> None:
        self.endpoints = endpoints
        self.addresses = set(endpoints)
        self.now = 0.0
        self.registry = CollectorRegistry()
        signals = Signals(self.registry)
        self.balanced = Balanced(
            name="the server",
            resolve=self.resolve,
            connect=self.endpoints.__getitem__,
            guard=lambda _: Breaker("v", signals, Policy(), {}, lambda model, what: None),
            resolve_seconds=0,
            answer_seconds=0.02,
            clock=lambda: self.now,
        )

    async def ask(self, calls: int = 1) -> int:
        """How many of these calls fail."""
        failed = 0
        for _ in range(calls):
            try:
                await self.balanced.infer(REQUEST)
            except DuetError:
                failed += 1
        await asyncio.sleep(0.01)  # what is tried in the background has its turn
        return failed

    def out(self, address: str) -> Collection[str]:
        return self.balanced.state()[address]["out"]

    def tick(self, seconds: float) -> None:
        self.now += seconds

    async def resolve(self) -> Collection[str]:
        return self.addresses


async def test_calls_are_spread_and_the_busier_of_two_is_spared() -> None:
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    a.hold = b.hold = asyncio.Event()
    calls = [asyncio.create_task(world.balanced.infer(REQUEST)) for _ in range(20)]
    await asyncio.sleep(0)
    assert (a.calls, b.calls) == (10, 10)
    a.hold.set()
    await asyncio.gather(*calls)


async def test_a_call_goes_only_where_its_version_is_ready() -> None:
    a, b = Endpoint(ready=(1,)), Endpoint(ready=(1, 2), default=2)
    world = World(a=a, b=b)
    metadata = await world.balanced.metadata("m")
    assert list(metadata.versions) == [1, 2]
    assert metadata.default == 2
    for _ in range(10):
        await world.balanced.infer(InferRequest("m", REQUEST.inputs, version=2))
    assert (a.calls, b.calls) == (0, 10)


async def test_an_endpoint_that_cannot_be_reached_gets_no_more_until_a_try_succeeds() -> None:
    """One failure is enough, and no client's request is risked on it while another endpoint can answer."""
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    a.failure = Unavailable("dead")
    assert await world.ask(40) == 1
    assert a.calls == 1
    world.now += 1.1
    assert await world.ask(40) == 0
    assert a.calls == 2
    a.failure = None
    world.now += 1.1
    assert await world.ask(40) == 0
    assert not world.out("a")
    assert await world.ask(40) == 0
    assert a.calls > 13


async def test_the_only_endpoint_is_tried_once_a_second_and_else_answers_at_once() -> None:
    a = Endpoint()
    world = World(a=a)
    await world.balanced.metadata("m")
    a.failure = Unavailable("dead")
    for _ in range(3):
        assert await world.ask(100) == 100
        world.now += 1.0
    assert a.calls == 3
    a.failure = None
    assert await world.ask(100) == 0


async def test_an_absent_endpoint_that_tells_of_its_models_is_tried_at_once() -> None:
    a = Endpoint()
    world = World(a=a)
    await world.balanced.metadata("m")
    a.failure = Unavailable("dead")
    assert await world.ask(5) == 5
    a.failure = None
    await world.balanced.metadata("m")
    assert await world.ask(5) == 0


async def test_five_failures_of_a_model_take_the_endpoint_out_for_it_and_for_no_other() -> None:
    """What the endpoint says of one model is no sign that it is gone."""
    a = Endpoint()
    world = World(a=a)
    for model in ("m", "other"):
        await world.balanced.metadata(model)
    a.failure = TORCHSERVE.translated(500, "Worker died.")
    for number in range(6):
        with pytest.raises(Unavailable, match="worker died" if number < 5 else "tried again each second"):
            await world.balanced.infer(REQUEST)
    a.failure = None
    assert (await world.balanced.infer(replace(REQUEST, model="other"))).model == "other"
    world.now += 1.0
    assert (await world.balanced.infer(REQUEST)).model == "m"


async def test_what_is_sent_again_goes_elsewhere() -> None:
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    for _ in range(20):
        await world.balanced.infer(replace(REQUEST, avoid="a"))
    assert (a.calls, b.calls) == (0, 20)
    world.addresses = {"a"}
    await world.balanced.metadata("m")
    await world.balanced.infer(replace(REQUEST, avoid="a"))
    assert a.calls == 1


async def test_a_slow_endpoint_is_spared() -> None:
    """Ten times as slow: it gets less than a fifth of the calls, and is looked at again after a while."""
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    a.seconds, b.seconds = 0.1, 0.01
    a.tick = b.tick = world.tick
    for _ in range(100):
        await world.balanced.infer(REQUEST)
    assert a.calls < 20
    before = a.calls
    world.now += 60
    for _ in range(400):
        await world.balanced.infer(REQUEST)
        world.now += 0.1
    assert a.calls > before


async def test_quick_refusals_attract_no_calls() -> None:
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    a.tick = b.tick = world.tick
    a.seconds = b.seconds = 0.01
    await world.ask(10)
    a.seconds = 0.0001
    a.failure = TORCHSERVE.translated(503, kind="ServiceUnavailableException")
    before = a.calls
    refused = await world.ask(100)
    assert refused == a.calls - before <= 5


async def test_a_server_that_says_it_is_well_and_computes_nothing_is_taken_out() -> None:
    """TorchServe's worker hangs: READY, and the queue does not move. With answers in between it is only slow."""
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    await world.ask(10)
    a.pending = b.pending = 3
    for _ in range(5):
        await world.balanced.metadata("m")
        await world.balanced.infer(replace(REQUEST, avoid="a"))
        world.now += 1.0
    assert list(world.out("a")) == ["m"]
    assert not world.out("b")
    labels = {"model": "m", "variant": "v", "reason": "hung"}
    assert world.registry.get_sample_value("duet_ejections_total", labels) == 1


async def test_a_client_with_little_time_takes_no_endpoint_out() -> None:
    a = Endpoint()
    world = World(a=a)
    await world.balanced.metadata("m")
    a.tick, a.seconds = world.tick, 0.1
    a.failure = DeadlineExceeded("late")
    await world.ask(20)
    assert a.calls == 20
    a.seconds = 0.3
    await world.ask(20)
    assert a.calls == 25


async def test_overload_is_no_reason_to_leave_an_endpoint_out() -> None:
    a = Endpoint()
    world = World(a=a)
    await world.balanced.metadata("m")
    a.failure = TORCHSERVE.translated(503, kind="ServiceUnavailableException")
    for _ in range(3):
        with pytest.raises(ResourceExhausted):
            await world.balanced.infer(REQUEST)
    assert a.calls == 3


async def test_the_server_is_there_while_one_endpoint_is() -> None:
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    a.failure = Unavailable("dead")
    assert (await world.balanced.metadata("m")).ready
    b.failure = NotFound("unknown")
    with pytest.raises(Unavailable, match="dead"):  # the dead one may have it
        await world.balanced.metadata("m")
    a.failure = b.failure
    with pytest.raises(NotFound):
        await world.balanced.metadata("m")


async def test_a_silence_is_forgiven_twice() -> None:
    a = Endpoint()
    world = World(a=a)
    await world.balanced.metadata("m")
    a.silent = True
    for _ in range(2):
        assert (await world.balanced.metadata("m")).ready
    with pytest.raises(Unavailable, match="does not answer"):
        await world.balanced.metadata("m")
    with pytest.raises(Unavailable):
        await world.balanced.infer(REQUEST)


async def test_addresses_that_come_and_go_are_followed() -> None:
    """What an endpoint that is gone has in flight ends; then its connections are closed."""
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    world.addresses = {"a"}
    await world.balanced.metadata("m")
    a.hold = asyncio.Event()
    call = asyncio.create_task(world.balanced.infer(REQUEST))
    await asyncio.sleep(0)
    world.addresses = {"b"}
    await world.balanced.metadata("m")
    assert (await world.balanced.infer(REQUEST)).version == 1
    assert b.calls == 1
    assert not a.closed
    a.hold.set()
    assert (await call).version == 1
    assert a.closed


async def test_a_name_that_cannot_be_looked_up_leaves_the_addresses_as_they_were() -> None:
    a = Endpoint()
    world = World(a=a)
    await world.balanced.metadata("m")

    async def fails() -> Collection[str]:
        raise OSError("no such host")

    world.balanced._resolve = fails
    assert (await world.balanced.metadata("m")).ready


async def test_models_are_not_taken_away_while_an_endpoint_is_silent() -> None:
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    assert await world.balanced.models() == {"m"}
    await world.balanced.metadata("m")
    a.failure = b.failure = Unavailable("dead")
    assert await world.balanced.models() == {"m"}


async def test_a_literal_address_stands_for_itself() -> None:
    assert await resolve_host("127.0.0.1", 80) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("rows", "merged"),
    [
        ((Rows.INDEPENDENT, Rows.INDEPENDENT), Rows.INDEPENDENT),
        ((Rows.INDEPENDENT, Rows.UNKNOWN), Rows.UNKNOWN),
        ((Rows.UNKNOWN, Rows.DEPENDENT), Rows.DEPENDENT),
        ((Rows.DEPENDENT, Rows.INDEPENDENT), Rows.DEPENDENT),
    ],
)
async def test_rows_are_independent_where_every_endpoint_says_so(rows: tuple[Rows, Rows], merged: Rows) -> None:
    """A joined call may go to either of them."""
    world = World(a=Endpoint(), b=Endpoint())
    world.endpoints["a"].rows, world.endpoints["b"].rows = rows
    metadata = await world.balanced.metadata("m")
    assert metadata.versions[1].signatures["f"].rows is merged


async def test_an_endpoint_where_the_version_is_not_there_has_no_say() -> None:
    world = World(a=Endpoint(), b=Endpoint(ready=(2,), default=2))
    world.endpoints["b"].rows = Rows.UNKNOWN
    metadata = await world.balanced.metadata("m")
    assert metadata.versions[1].signatures["f"].rows is Rows.INDEPENDENT


@pytest.mark.parametrize(
    ("sizes", "merged"), [((8, 4), 4), ((None, 4), 4), ((None, None), None), ((8, "not"), "not"), (("not", 8), "not")]
)
async def test_servers_batch_where_every_endpoint_does(
    sizes: tuple[int | str | None, ...], merged: int | str | None
) -> None:
    world = World(a=Endpoint(), b=Endpoint())
    for endpoint, size in zip(world.endpoints.values(), sizes, strict=True):
        endpoint.batching = None if isinstance(size, str) else ServerBatching("it does", size)
    batching = (await world.balanced.metadata("m")).versions[1].batching
    assert ("not" if batching is None else batching.max_rows) == merged
