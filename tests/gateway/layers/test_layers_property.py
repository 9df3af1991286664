"""Limiter, breaker and retry budget as state machines on a simulated clock, and all layers together under bad luck."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection
from math import ceil

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from prometheus_client import CollectorRegistry

from gateway.errors import CORRUPT, DuetError, Fault, ResourceExhausted, Unavailable
from gateway.layers.breaker import Breaker, Circuit, Policy
from gateway.layers.deadline import Deadline
from gateway.layers.gate import Gate, Place, Refused, Waits
from gateway.layers.gradient import Gradient
from gateway.layers.limit import Bounds, Budget, Limit
from gateway.layers.retry import Again, Allowance, Retry
from gateway.layers.signals import Signals
from gateway.servers.balanced import Balanced
from gateway.types import Criticality, InferRequest, InferResponse, ModelMetadata, Tensor, VersionMetadata
from tests.fakes.simulated import simulate

passing = st.floats(0, 3)

LOST = Fault("lost", retry_safe=True, counts=True)
ABSENT = Fault("unreachable", retry_safe=True, counts=True, unreachable=True)
SHED = Fault("overload", retry_safe=False, counts=False)
FAULTS = [LOST, ABSENT, SHED, CORRUPT]


class CircuitMachine(RuleBasedStateMachine):
    """The model is the policy in words: rows of failures, the time of the last try, and whether one is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy(failures=3, rate=0.9)
        self.circuit = Circuit("m", self.policy)
        self.now = 0.0
        self.row = 0
        self.opened_or_tried = 0.0

    @rule(seconds=passing)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(at_once=st.sampled_from(["", "", "", "absent"]))
    def a_call_fails(self, at_once: str) -> None:
        was_open = self.circuit.open
        opens = self.circuit.failed(self.now, at_once=at_once)
        self.row += 1
        assert opens == (not was_open and self.circuit.open)
        if opens:
            self.opened_or_tried = self.now
        if not was_open and (at_once or self.row >= self.policy.failures):
            assert self.circuit.open

    @rule()
    def a_call_succeeds(self) -> None:
        was_open = self.circuit.open
        self.circuit.succeeded()
        assert self.circuit.open == was_open
        if not was_open:
            self.row = 0

    @precondition(lambda self: self.circuit.due(self.now))
    @rule()
    def a_try_begins(self) -> None:
        assert self.now - self.opened_or_tried >= self.policy.probe_seconds
        self.circuit.begin_try(self.now)
        self.opened_or_tried = self.now

    @precondition(lambda self: self.circuit.trying)
    @rule(well=st.sampled_from([True, False, None]))
    def a_try_ends(self, well: bool | None) -> None:
        assert self.circuit.end_try(well) == bool(well)
        assert self.circuit.open != bool(well)
        if well:
            self.row = self.policy.failures - 1

    @invariant()
    def it_can_always_be_tried_again_within_a_second(self) -> None:
        if self.circuit.open and not self.circuit.trying:
            assert self.circuit.due(self.now + self.policy.probe_seconds)

    @invariant()
    def a_closed_one_is_not_tried(self) -> None:
        assert self.circuit.open or not self.circuit.due(self.now + 100)


class AllowanceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.again = Again(share=0.2, per_second=10)
        self.allowance = Allowance(self.again)
        self.now = 0.0
        self.requests = 0
        self.retries = 0

    @rule(seconds=st.floats(-1, 3))
    def time_passes(self, seconds: float) -> None:
        self.now = max(0.0, self.now + seconds)
        self.latest = max(getattr(self, "latest", 0.0), self.now)

    @rule(count=st.integers(1, 50))
    def requests_come(self, count: int) -> None:
        for _ in range(count):
            self.allowance.sent(self.now)
        self.requests += count

    @rule(count=st.integers(1, 50))
    def retries_are_wanted(self, count: int) -> None:
        self.retries += sum(self.allowance.take(self.now) for _ in range(count))

    @invariant()
    def they_stay_within_a_fifth_of_the_requests_and_ten_a_second(self) -> None:
        # A clock that goes back and forth counts each of its ways forth.
        self.forth = getattr(self, "forth", 0.0) + max(0.0, self.now - getattr(self, "before", 0.0))
        self.before = self.now
        assert self.retries <= 0.2 * self.requests + 10 * self.forth + 10 + 1e-6


class GateMachine(RuleBasedStateMachine):
    """Nobody is let in above the limit, nobody is forgotten, and nothing is counted twice."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.gate = Gate("m", Gradient(4.0, 1, 8), Waits(most=5))
        self.now = 0.0
        self.inside = 0
        self.waiting: list[Place] = []
        self.refused = 0

    def teardown(self) -> None:
        self.loop.close()

    def settle(self) -> None:
        for place in [place for place in self.waiting if place.turn.done()]:
            self.waiting.remove(place)
            if place.turn.exception() is None:
                self.inside += 1

    @rule(seconds=st.floats(0, 0.3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.gate.advance(self.now)
        self.settle()

    @rule(criticality=st.sampled_from(Criticality))
    def one_comes(self, criticality: Criticality) -> None:
        if self.gate.try_enter(criticality):
            self.inside += 1
            assert self.inside <= ceil(int(self.gate.gradient.limit) * (0.8 + 0.1 * criticality) + 1e-9)
            return
        try:
            self.waiting.append(self.gate.queue(self.now, criticality, self.loop.create_future()))
            assert criticality is not Criticality.SHEDDABLE
        except Refused:
            self.refused += 1

    @precondition(lambda self: self.inside)
    @rule()
    def one_leaves(self) -> None:
        self.inside -= 1
        self.gate.leave(self.now)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(draw=st.data())
    def one_gives_up_waiting(self, draw: st.DataObject) -> None:
        place = self.waiting.pop(draw.draw(st.integers(0, len(self.waiting) - 1)))
        self.gate.give_up(place, self.now)
        self.settle()

    @rule(seconds=st.floats(0.0001, 2), refused=st.booleans())
    def the_limit_is_judged(self, seconds: float, refused: bool) -> None:
        for _ in range(10):
            self.now += 0.01
            self.gate.gradient.answered(self.now, seconds, 8)
            if refused:
                self.gate.gradient.refused(self.now)
        self.gate.share()
        assert 1 <= self.gate.gradient.limit <= 8

    @invariant()
    def what_it_counts_is_what_is_there(self) -> None:
        assert self.gate.in_flight == self.inside
        assert self.gate.queued == len(self.waiting) <= 5

    @invariant()
    def nobody_waits_before_an_empty_house(self) -> None:
        assert self.inside or not self.waiting


quick = settings(max_examples=25, stateful_step_count=30, deadline=None)
for machine in (CircuitMachine, AllowanceMachine, GateMachine):
    machine.TestCase.settings = quick

TestCircuit = CircuitMachine.TestCase
TestAllowance = AllowanceMachine.TestCase
TestGate = GateMachine.TestCase


class Fickle:
    """An endpoint that answers with what it was sent, if it is in the mood: it has good times and bad ones."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.mood = 0.0
        self.in_flight = 0
        self.calls = 0

    async def infer(self, request: InferRequest) -> InferResponse:
        self.calls += 1
        self.in_flight += 1
        try:
            await asyncio.sleep(self.dice.expovariate(100) if self.dice.random() > 0.01 else 5.0)
            if self.dice.random() < self.mood:
                error = ResourceExhausted("full") if self.dice.random() < 0.2 else Unavailable("no")
                error.fault = self.dice.choice(FAULTS)
                raise error
        finally:
            self.in_flight -= 1
        return InferResponse(request.model, "v", 1, request.inputs)

    async def metadata(self, model: str) -> ModelMetadata:
        return ModelMetadata(model, "v", "p", {1: VersionMetadata(1, True)}, 1)

    async def models(self) -> None:
        return None

    async def aclose(self) -> None:
        pass


async def under_bad_luck(seed: int, requests: int) -> Counter[str]:
    dice = random.Random(seed)
    loop, signals = asyncio.get_running_loop(), Signals(CollectorRegistry())
    endpoints = {name: Fickle(dice) for name in "abc"[: dice.randint(1, 3)]}

    async def resolve() -> Collection[str]:
        return endpoints.keys()

    balanced = Balanced(
        name="the server",
        resolve=resolve,
        connect=endpoints.__getitem__,
        guard=lambda _: Breaker("v", signals, Policy(), {}, lambda model, what: None),
        again=lambda model: retry.spare(model),
        clock=loop.time,
    )
    await balanced.metadata("m")
    retry = Retry(balanced, variant="v", signals=signals, default=Again(), clock=loop.time, draw=dice.uniform)
    budget = Budget(100_000)
    limit = Limit(
        retry,
        variant="v",
        signals=signals,
        budget=budget,
        places=lambda _: 8,
        default=Bounds(waits=Waits(most=16)),
        clock=loop.time,
    )
    stack = Deadline(limit, default_seconds=2.0)
    outcomes: Counter[str] = Counter()

    async def caller(number: int) -> None:
        own = np.full((1, 2), number, np.float32)
        deadline = loop.time() + dice.uniform(0.001, 0.2) if dice.random() < 0.3 else None
        wish = dice.choice(list(Criticality))
        request = InferRequest("m", (Tensor("x", "FP32", own),), version=1, deadline=deadline, criticality=wish)
        try:
            response = await stack.infer(request)
        except DuetError as error:
            outcomes[type(error).__name__] += 1
        else:
            assert (response.outputs[0].data == number).all()
            outcomes["answered"] += 1

    tasks = []
    for number in range(requests):
        task = loop.create_task(caller(number))
        tasks.append(task)
        if dice.random() < 0.2:
            loop.call_later(dice.expovariate(200), task.cancel)
        if number % 50 == 0:
            for endpoint in endpoints.values():
                endpoint.mood = dice.choice([0.0, 0.0, 0.0, 0.02, 0.3, 1.0])
        await asyncio.sleep(dice.expovariate(200))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(10)  # what was tried in the background ends
    assert not [result for result in results if result and not isinstance(result, asyncio.CancelledError)]
    outcomes["left"] += sum(result is not None for result in results)
    assert sum(outcomes.values()) == requests
    state = limit.state()["m"]
    assert (state["in_flight"], state["queued"], budget.used_bytes) == (0, 0, 0)
    assert all(endpoint["in_flight"] == 0 for endpoint in balanced.state().values())
    assert all(endpoint.in_flight == 0 for endpoint in endpoints.values())
    for endpoint in endpoints.values():
        endpoint.mood = 0.0
    for _ in range(20):  # good times again: whoever was out is in again
        await balanced.metadata("m")
        await asyncio.gather(*(balanced.infer(_plain()) for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(1.0)
    assert not any(endpoint["out"] for endpoint in balanced.state().values())
    assert len(asyncio.all_tasks()) == 1
    return outcomes


def _plain() -> InferRequest:
    return InferRequest("m", (Tensor("x", "FP32", np.ones((1, 2), np.float32)),), version=1)


@pytest.mark.parametrize("seed", range(4))
def test_no_request_is_lost_or_answered_twice_and_no_place_leaks(seed: int) -> None:
    outcomes = simulate(under_bad_luck(seed, 500))
    assert outcomes["answered"] > 50
    assert outcomes["left"] > 10


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 120))
def test_the_same_for_a_hundred_thousand_requests(seed: int) -> None:
    simulate(under_bad_luck(seed, 5000))


@pytest.mark.full
@pytest.mark.parametrize("machine", [CircuitMachine, AllowanceMachine, GateMachine])
def test_the_machines_for_a_hundred_thousand_steps(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=1000, stateful_step_count=100, deadline=None))
