"""Which failures an endpoint, a batch, a limit and the stock of retries are charged with.

The kind: what one request can cause is charged to that request. What a server does to everybody is charged to the
server, as quickly as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gateway.errors import UNDECLARED, DeadlineExceeded, DuetError, FailedPrecondition
from gateway.layers.breaker import Breaker, Circuit, Policy
from gateway.layers.gradient import Gradient
from gateway.layers.retry import Again, Allowance
from gateway.layers.signals import Signals
from gateway.servers import balanced
from gateway.servers.balanced import Balanced
from gateway.servers.faults import Lost
from gateway.servers.tfserving.faults import TFSERVING
from gateway.servers.torchserve.faults import TORCHSERVE
from gateway.servers.witness import Witnesses
from gateway.types import InferRequest, InferResponse, ModelMetadata, Payload, Target, Tensor, VersionMetadata

pytestmark = pytest.mark.anyio

POISON = 666.0


def request(value: float, model: str = "m") -> InferRequest:
    return InferRequest(model, (Tensor("x", "FP32", np.array([value], np.float32)),), version=1)


class Endpoint:
    """Fails requests with `POISON`, or all of them, as ``failure`` says."""

    def __init__(self, failure: Callable[[], DuetError], *, fails_all: bool = False) -> None:
        self.failure = failure
        self.fails_all = fails_all
        self.asked: list[float] = []
        self.seconds = 0.0
        self.tick: Callable[[], None] = lambda: None

    async def infer(self, asked: InferRequest) -> InferResponse:
        value = float(asked.inputs[0].data[0])
        self.asked.append(value)
        self.tick()
        await asyncio.sleep(self.seconds)
        if self.fails_all or value == POISON:
            raise self.failure()
        return InferResponse(asked.model, "v", 1, asked.inputs)

    async def metadata(self, model: str) -> ModelMetadata:
        return ModelMetadata(model, "v", "p", {1: VersionMetadata(1, ready=True)}, 1)

    async def models(self) -> list[str]:
        return ["m"]

    async def aclose(self) -> None: ...


class World:
    def __init__(self, **endpoints: Endpoint) -> None:
        self.now = 0.0
        signals = Signals(CollectorRegistry())

        async def resolve() -> set[str]:
            return set(endpoints)

        self.balanced = Balanced(
            name="the server",
            resolve=resolve,
            connect=endpoints.__getitem__,
            guard=lambda _: Breaker("v", signals, Policy(), {}, lambda model, what: None),
            clock=lambda: self.now,
        )

    async def ask(self, *values: float) -> int:
        """How many of these fail, one after the other."""
        failed = 0
        for value in values:
            try:
                await self.balanced.infer(request(value))
            except DuetError:
                failed += 1
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)  # what goes on in the background has its turn
        return failed

    def out(self, address: str) -> list[str]:
        return list(self.balanced.state()[address]["out"])


FAILURES = {
    "crash": lambda: TORCHSERVE.translated(500, "Worker died."),
    "memory": lambda: TORCHSERVE.translated(507, "Out of resources"),
    "corrupt": lambda: TORCHSERVE.translated(Lost.UNREADABLE),
    "broken": lambda: TORCHSERVE.translated(Lost.BROKEN),
    "closed": lambda: TFSERVING.translated(Lost.CLOSED),
    "late": lambda: DeadlineExceeded("late"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_requests_that_fail_by_themselves_take_no_endpoint_out(name: str) -> None:
    """The endpoint is asked what it has answered before, and answers it. Again after each such doubt."""
    a = Endpoint(FAILURES[name])
    world = World(a=a)
    await world.balanced.metadata("m")
    await world.ask(1)
    for _ in range(5):
        world.now += 1
        assert await world.ask(*[POISON] * 12) == 12
        assert not world.out("a")
        assert await world.ask(2, 3) == 0
    assert a.asked.count(1) > 1 or name == "late"  # given up at once, it is no sign of anything


@pytest.mark.parametrize("name", [name for name in FAILURES if name != "late"])
async def test_an_endpoint_that_fails_what_it_has_answered_is_taken_out(name: str) -> None:
    """After as many failures as before, and one call more."""
    a = Endpoint(FAILURES[name])
    world = World(a=a)
    await world.balanced.metadata("m")
    await world.ask(1)
    a.fails_all = True
    await world.ask(*[2] * 5)
    assert world.out("a") == ["*" if name == "closed" else "m"]
    assert a.asked.count(1) == 2


async def test_while_it_is_doubted_others_are_called() -> None:
    """Of two endpoints the doubted one gets no requests until it has answered."""
    a, b = Endpoint(FAILURES["crash"]), Endpoint(FAILURES["crash"])
    world = World(a=a, b=b)
    await world.balanced.metadata("m")
    await world.ask(*range(10))
    a.fails_all = True
    for value in range(100, 400):
        with suppress(DuetError):
            await world.balanced.infer(request(value))
        if world.balanced._endpoints["a"].judging:
            break
    for value in range(200, 220):
        await world.balanced.infer(request(value))
    assert max(a.asked) < 200
    await asyncio.sleep(0.01)
    assert world.out("a") == ["m"]


async def test_a_bad_callers_request_as_the_try_keeps_no_endpoint_out() -> None:
    """It may come first after each second. What was answered before decides then too."""
    a = Endpoint(FAILURES["crash"])
    world = World(a=a)
    await world.balanced.metadata("m")
    await world.ask(1)
    a.fails_all = True
    await world.ask(*[2] * 6)
    assert world.out("a") == ["m"]
    a.fails_all = False
    world.now += 1.1
    assert await world.ask(POISON) == 1
    assert not world.out("a")
    assert await world.ask(3) == 0


async def test_a_worker_that_one_request_has_killed_may_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered before waits for it, and so do others: an endpoint that is out would refuse them. Late calls
    are judged sooner: a server that hangs does not come back.
    """
    monkeypatch.setattr(balanced, "_LATE_JUDGED_SECONDS", 0.01)
    for name, out in (("crash", []), ("late", ["m"])):
        a = Endpoint(FAILURES[name])
        world = World(a=a)
        await world.balanced.metadata("m")
        await world.ask(1)
        a.seconds = 0.05
        calls = [world.balanced.infer(request(POISON)) for _ in range(6)]
        if name == "late":
            world.now += 1  # as long as these took
            a.tick = lambda world=world: setattr(world, "now", world.now + 1)
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert world.out("a") == out


async def test_without_anything_answered_before_failures_in_a_row_take_out_as_ever() -> None:
    a = Endpoint(FAILURES["crash"])
    world = World(a=a)
    await world.balanced.metadata("m")
    await world.ask(*[POISON] * 6)
    assert world.out("a") == ["m"]


def test_a_doubt_that_is_cleared_is_not_raised_again_at_once() -> None:
    """Or a flood of bad requests would have the endpoint asked after every fifth of them."""
    circuit = Circuit("m", Policy())
    for _ in range(5):
        circuit.failed(0.0, may_doubt=True)
    assert circuit.doubted
    assert not circuit.judged(well=True, now=0.0)
    for _ in range(50):
        circuit.failed(0.1, may_doubt=True)
    assert not circuit.doubted
    for _ in range(5):
        circuit.failed(0.3, may_doubt=True)
    assert circuit.doubted
    assert circuit.judged(well=False, now=0.3)
    assert circuit.open


def test_a_witness_is_a_small_copy_of_a_usual_request() -> None:
    witnesses = Witnesses()
    asked = request(1)
    witnesses.answered(asked, 0.01, 0.01, 0.0)
    asked.inputs[0].data[0] = 5  # a batch's memory is used again
    kept = witnesses.of("m")
    assert kept is not None
    assert kept.inputs[0].data[0] == 1
    witnesses.answered(request(2), 1.0, 0.01, 20.0)  # a slow one would make its endpoint look hung
    witnesses.answered(InferRequest("big", (), payload=Payload(bytes(5 << 20), None)), 0.01, 0.01, 0.0)
    assert witnesses.of("m") is kept
    assert witnesses.of("big") is None
    witnesses.answered(request(3), 0.01, 0.01, 20.0)
    assert witnesses.of("m") is not kept


def test_a_witness_holds_nothing_of_the_front_that_sent_it() -> None:
    """How its body would be decoded again holds that body, which may be megabytes, and who sent it."""

    async def reread(_: Target) -> InferRequest:
        raise AssertionError

    witnesses = Witnesses()
    witnesses.answered(replace(request(1), target=cast(Target, object()), reread=reread), 0.01, 0.01, 0.0)
    kept = witnesses.of("m")
    assert kept is not None
    assert (kept.reread, kept.target) == (None, None)


def test_failures_of_requests_leave_retries_for_those_of_servers() -> None:
    again = Again()
    allowance = Allowance(again, _at=0.0)
    own = sum(allowance.take(0.0, least_left=again.per_second / 2) for _ in range(100))
    others = sum(allowance.take(0.0) for _ in range(100))
    assert (own, others) == (5, 5)


def test_what_is_late_by_itself_lowers_no_limit() -> None:
    """Others that were sent meanwhile were answered as usual. Where they were not, it is the server's lateness."""
    gradient = Gradient(100.0, 1, 100)
    now = 0.0
    for _ in range(50):
        now += 0.01
        gradient.answered(now, 0.01, 2)
    for _ in range(50):
        now += 0.1
        gradient.answered(now, 0.01, 2)
        gradient.late(now, 0.3)
    assert gradient.limit == 100
    now += 10
    for _ in range(50):
        now += 0.1
        gradient.late(now, 0.3)
    assert gradient.limit < 50
    for _ in range(1000):
        now += 0.01
        gradient.answered(now, 0.01, 2)
    assert gradient.limit == 100


async def test_what_the_model_declared_wrongly_is_no_sign_of_anything() -> None:
    """Without a witness too: it never counts."""

    def failure() -> DuetError:
        error = FailedPrecondition("the model declares [-1, 10] and gave [3, 12]")
        error.fault = UNDECLARED
        return error

    a = Endpoint(failure)
    world = World(a=a)
    await world.balanced.metadata("m")
    assert await world.ask(*[POISON] * 20) == 20
    assert await world.ask(1) == 0
