from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gateway.backends.base import Layer
from gateway.errors import DuetError, Fault, ResourceExhausted, Unavailable
from gateway.layers.gate import Refused, Waits
from gateway.layers.gradient import Gradient
from gateway.layers.limit import Bounds, Budget, Limit
from gateway.layers.signals import Signals
from gateway.types import Criticality, InferRequest, InferResponse, Tensor
from tests.fakes.simulated import simulate

X = Tensor("x", "FP32", np.ones((1, 4), np.float32))
REQUEST = InferRequest("m", (X,))
SHEDDABLE = InferRequest("m", (X,), criticality=Criticality.SHEDDABLE)
CRITICAL = InferRequest("m", (X,), criticality=Criticality.CRITICAL)


class Held(Layer):
    """Answers after ``seconds``, and counts how many it works on."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.failure: DuetError | None = None
        self.in_flight = 0
        self.most = 0
        self.asked: list[InferRequest] = []

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            if self.failure is not None:
                raise self.failure
        finally:
            self.in_flight -= 1
        return InferResponse(request.model, "v", 1, request.inputs)


class World:
    def __init__(self, *, seconds: float = 1.0, most: int = 10, max_bytes: int = 1 << 20, queue: int = 512) -> None:
        self.held = Held(seconds)
        self.registry = CollectorRegistry()
        self.budget = Budget(max_bytes)
        self.limit = Limit(
            self.held,
            variant="v",
            signals=Signals(self.registry),
            budget=self.budget,
            places=lambda _: most,
            default=Bounds(initial=most, waits=Waits(most=queue)),
            models={"free": None},
            clock=asyncio.get_running_loop().time,
        )

    def ask(self, request: InferRequest = REQUEST) -> asyncio.Task[InferResponse]:
        return asyncio.get_running_loop().create_task(self.limit.infer(request))

    def refused(self, reason: str) -> float:
        labels = {"model": "m", "variant": "v", "reason": reason}
        return self.registry.get_sample_value("duet_refused_total", labels) or 0.0


def test_no_more_than_the_limit_are_in_flight_and_the_others_have_their_turn() -> None:
    async def main() -> None:
        world = World(seconds=0.01, most=10)
        tasks = [world.ask(CRITICAL) for _ in range(30)]
        await asyncio.gather(*tasks)
        assert world.held.most == 10
        assert len(world.held.asked) == 30
        assert world.limit.state()["m"]["in_flight"] == 0

    simulate(main())


def test_a_tenth_of_the_limit_is_left_to_critical_requests_and_a_fifth_is_not_for_sheddable_ones() -> None:
    async def main() -> None:
        world = World(most=10)
        tasks = [world.ask(SHEDDABLE) for _ in range(9)]
        await asyncio.sleep(0)
        assert world.held.in_flight == 8
        with pytest.raises(Refused, match="shed"):
            await tasks[8]
        tasks += [world.ask(REQUEST) for _ in range(2)]
        await asyncio.sleep(0)
        assert world.held.in_flight == 9
        tasks += [world.ask(CRITICAL)]
        await asyncio.sleep(0)
        assert world.held.in_flight == 9 + 1
        await asyncio.gather(*tasks, return_exceptions=True)
        assert world.refused("shed") == 1

    simulate(main())


def test_a_critical_request_overtakes_those_that_wait() -> None:
    async def main() -> None:
        world = World(seconds=0.02, most=1)
        order: list[str] = []
        tasks = [world.ask() for _ in range(3)] + [world.ask(CRITICAL)]
        for name, task in zip("abcd", tasks, strict=True):
            task.add_done_callback(lambda _, name=name: order.append(name))
        await asyncio.gather(*tasks)
        assert order == ["a", "d", "b", "c"]

    simulate(main())


def test_who_waits_too_long_is_told_to_come_later() -> None:
    """A server that hangs lets nobody in: the queue is looked after by its age, not only when somebody leaves."""

    async def main() -> None:
        world = World(seconds=60, most=1)
        first = world.ask()
        await asyncio.sleep(0)
        started = asyncio.get_running_loop().time()
        with pytest.raises(ResourceExhausted) as caught:
            await world.ask()
        assert caught.value.retry_after_seconds == 1
        assert 0.1 <= asyncio.get_running_loop().time() - started <= 0.2
        assert world.refused("age") == 1
        await first

    simulate(main())


def test_a_standing_queue_is_overload_in_which_nobody_waits_long() -> None:
    """Three times what the server can do: it goes on at full speed, and who is refused knows it within 10 ms."""

    async def main() -> None:
        world = World(seconds=0.02, most=10)
        loop = asyncio.get_running_loop()
        waits: list[float] = []

        async def caller() -> None:
            started = loop.time()
            try:
                await world.limit.infer(REQUEST)
            except ResourceExhausted:
                waits.append(loop.time() - started)

        tasks = []
        for _ in range(3000):  # 1,500 a second, where 450 can be answered
            tasks.append(loop.create_task(caller()))
            await asyncio.sleep(1 / 1500)
        await asyncio.gather(*tasks)
        answered = len(world.held.asked)
        assert answered >= 0.9 * 450 * 2
        assert sum(wait <= 0.01 for wait in waits) >= 0.99 * len(waits)

    simulate(main())


def test_callers_in_a_closed_loop_are_no_overload() -> None:
    """They come again at once and never more than they are: what they cause is a full batch, and that is wanted."""

    async def main() -> None:
        world = World(seconds=0.001, most=256)

        async def caller(calls: int) -> None:
            for _ in range(calls):
                world.held.seconds = 0.001 + 0.0003 * world.held.in_flight
                await world.limit.infer(REQUEST)

        await caller(100)  # alone: what a request usually takes is little
        await asyncio.gather(*(caller(100) for _ in range(400)))
        assert len(world.held.asked) == 100 + 400 * 100

    simulate(main())


def test_the_queue_is_bounded() -> None:
    async def main() -> None:
        world = World(most=1, queue=2)
        tasks = [world.ask() for _ in range(4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.done() for task in tasks] == [False, False, False, True]
        assert world.refused("queue") == 1
        await asyncio.gather(*tasks, return_exceptions=True)

    simulate(main())


def test_bytes_in_flight_are_bounded_over_all_models() -> None:
    async def main() -> None:
        world = World(max_bytes=40)
        tasks = [world.ask(InferRequest(model, (X,))) for model in ("m", "n", "m")]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="bytes"):
            await tasks[2]
        await asyncio.gather(*tasks[:2])
        assert world.budget.used_bytes == 0
        large = Tensor("x", "FP32", np.ones((1, 100), np.float32))
        assert (await world.limit.infer(InferRequest("m", (large,)))).version == 1

    simulate(main())


def test_a_caller_who_leaves_gives_back_what_he_held_or_waited_for() -> None:
    async def main() -> None:
        world = World(seconds=0.01, most=1)
        first, second, third = (world.ask() for _ in range(3))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        await asyncio.sleep(0)
        assert (await third).version == 1
        state = world.limit.state()["m"]
        assert (state["in_flight"], state["queued"], world.budget.used_bytes) == (0, 0, 0)

    simulate(main())


def test_a_turn_that_comes_as_its_caller_leaves_goes_to_the_next() -> None:
    async def main() -> None:
        world = World(seconds=0.01, most=1)
        first, second, third = (world.ask() for _ in range(3))
        first.add_done_callback(lambda _: second.cancel())
        await asyncio.wait([first, second])
        assert (await third).version == 1
        assert world.limit.state()["m"]["in_flight"] == 0

    simulate(main())


def test_a_model_without_a_limit_has_none() -> None:
    async def main() -> None:
        world = World(most=1)
        await asyncio.gather(*(world.limit.infer(InferRequest("free", (X,))) for _ in range(5)))
        assert world.held.most == 5

    simulate(main())


def test_refusals_of_the_server_lower_the_limit_and_a_dead_server_does_not() -> None:
    async def main() -> None:
        world = World(seconds=0.01, most=100)
        world.held.failure = Unavailable("dead")
        for _ in range(40):
            with pytest.raises(Unavailable):
                await world.limit.infer(REQUEST)
        assert world.limit.state()["m"]["limit"] == 100
        world.held.failure = ResourceExhausted("full")
        world.held.failure.fault = Fault("overload", retry_safe=False, counts=False)
        for _ in range(40):
            with pytest.raises(ResourceExhausted):
                await world.limit.infer(REQUEST)
        assert world.limit.state()["m"]["limit"] < 70

    simulate(main())


def test_the_limit_falls_while_latency_rises_and_grows_again() -> None:
    gradient = Gradient(100.0, 1, 200)
    now = 0.0

    def answers(seconds: float, windows: int) -> None:
        nonlocal now
        for _ in range(windows * 10):
            now += 0.01
            gradient.answered(now, seconds, int(gradient.limit))

    answers(0.01, 60)
    usual = gradient.limit
    answers(0.2, 5)
    assert gradient.limit < 0.7 * usual
    lowered = gradient.limit
    answers(0.01, 30)
    assert gradient.limit > lowered
    answers(0.01, 1000)
    assert 190 < gradient.limit <= 200


def test_the_limit_does_not_follow_the_queue_that_it_lets_stand() -> None:
    """Four workers of 40 ms, overloaded for a minute: what is beyond them waits, and "usual" stays what it was."""
    gradient = Gradient(96.0, 1, 96)
    now, in_flight, limits = 0.0, 3.0, []
    while now < 60:
        in_flight = min(in_flight + 2, gradient.limit) if now > 10 else 3.0
        now += 0.01
        gradient.answered(now, max(0.04, in_flight / 100), int(in_flight))
        limits.append(gradient.limit)
    assert max(limits[2000:]) <= 20
    assert sum(limits[2000:]) / len(limits[2000:]) >= 8
    assert gradient.long_seconds <= 0.06


def test_a_model_that_became_slower_for_good_gets_its_places_back() -> None:
    """Thirty-two workers, from 40 ms to 400: at first that looks like overload."""
    gradient = Gradient(96.0, 1, 96)
    now = 0.0
    for service in (0.04, 0.4):
        ends = now + 60
        while now < ends:
            in_flight = gradient.limit
            seconds = max(service, in_flight * service / 32)
            now += seconds / in_flight
            gradient.answered(now, seconds, int(in_flight))
    assert gradient.limit >= 32


def test_whoever_came_late_himself_does_not_lower_the_limit() -> None:
    gradient = Gradient(100.0, 1, 100, long_seconds=0.2)
    for number in range(100):
        gradient.late(number * 0.1, 0.1)
    assert gradient.limit == 100
    gradient.late(10.0, 1.0)
    assert gradient.limit == 90


def test_who_could_not_be_answered_in_time_is_not_let_in() -> None:
    """A request of 0.5 s behind another has no use for a place that it gets with 0.3 s left."""

    async def main() -> None:
        world = World(seconds=0.5, most=1)
        await world.ask()
        first = world.ask()
        await asyncio.sleep(0.01)
        started = asyncio.get_running_loop().time()
        with pytest.raises(ResourceExhausted):
            await world.limit.infer(replace(REQUEST, deadline=started + 0.8))
        await first
        assert len(world.held.asked) == 2

    simulate(main())


def test_the_limit_stays_where_too_little_is_in_flight_to_tell() -> None:
    gradient = Gradient(100.0, 1, 200)
    for number in range(1000):
        gradient.answered(number * 0.01, 0.01 if number < 500 else 0.5, 3)
    assert gradient.limit == 100
