from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from gateway.backends.balanced import Balanced, resolve_host
from gateway.backends.translation import TORCHSERVE, translated
from gateway.errors import DuetError, NotFound, ResourceExhausted, Unavailable
from gateway.types import InferRequest, InferResponse, ModelMetadata, Tensor, VersionMetadata

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

    async def infer(self, request: InferRequest) -> InferResponse:
        self.calls += 1
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
        versions = {number: VersionMetadata(number, ready=True) for number in self.ready}
        return ModelMetadata(model, "v", "p", versions, self.default)

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
        self.balanced = Balanced(
            name="the server",
            resolve=self.resolve,
            connect=self.endpoints.__getitem__,
            resolve_seconds=0,
            answer_seconds=0.02,
        )

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


async def test_an_endpoint_that_cannot_be_reached_gets_no_more_until_it_answers() -> None:
    a, b = Endpoint(), Endpoint()
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    a.failure = Unavailable("dead")
    failed = 0
    for _ in range(40):
        try:
            await world.balanced.infer(REQUEST)
        except Unavailable:
            failed += 1
    assert failed <= 1
    a.failure = None
    await world.balanced.metadata("m")
    a.calls = 0
    for _ in range(40):
        await world.balanced.infer(REQUEST)
    assert a.calls


async def test_a_model_whose_worker_died_takes_no_other_model_with_it() -> None:
    """What the endpoint says of one model is no sign that it is gone."""
    a = Endpoint()
    world = World(a=a)
    for model in ("m", "other"):
        await world.balanced.metadata(model)
    a.failure = translated(TORCHSERVE, 500, "Worker died.")
    with pytest.raises(Unavailable, match="worker died"):
        await world.balanced.infer(REQUEST)
    a.failure = None
    with pytest.raises(Unavailable, match="cannot be reached"):
        await world.balanced.infer(REQUEST)
    assert (await world.balanced.infer(replace(REQUEST, model="other"))).model == "other"
    await world.balanced.metadata("m")
    assert (await world.balanced.infer(REQUEST)).model == "m"


async def test_overload_is_no_reason_to_leave_an_endpoint_out() -> None:
    a = Endpoint()
    world = World(a=a)
    await world.balanced.metadata("m")
    a.failure = translated(TORCHSERVE, 503, kind="ServiceUnavailableException")
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
