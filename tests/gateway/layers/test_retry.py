from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from gateway.backends.base import Layer
from gateway.errors import DuetError, Fault, Unavailable
from gateway.layers.retry import Again, Retry
from gateway.layers.signals import Signals
from gateway.types import InferRequest, InferResponse
from tests.fakes.simulated import simulate

LOST = Fault("lost", retry_safe=True, counts=True)
SWAP = Fault("swap", retry_safe=True, counts=False)
FULL = Fault("overload", retry_safe=False, counts=False)
REQUEST = InferRequest("m", ())


def failure(fault: Fault | None) -> DuetError:
    error = Unavailable("no")
    error.fault = fault
    error.endpoint = "a"
    return error


class Failing(Layer):
    """Fails with these, one after the other, and for ever with the last; None is an answer."""

    def __init__(self, faults: Sequence[DuetError | None], seconds: float = 0.0) -> None:
        self.faults = list(faults)
        self.seconds = seconds
        self.asked: list[tuple[float, InferRequest]] = []

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append((asyncio.get_running_loop().time(), request))
        await asyncio.sleep(self.seconds)
        fault = self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]
        if fault is not None:
            raise fault
        return InferResponse(request.model, "v", 1, ())


class World:
    def __init__(self, inner: Layer, again: Again | None = Again()) -> None:  # noqa: B008 - frozen
        self.registry = CollectorRegistry()
        clock = asyncio.get_running_loop().time
        self.retry = Retry(inner, variant="v", signals=Signals(self.registry), default=again, clock=clock)

    def count(self, outcome: str) -> float:
        labels = {"model": "m", "variant": "v", "outcome": outcome}
        return self.registry.get_sample_value("duet_retries_total", labels) or 0.0


def test_a_lost_call_is_sent_once_more_and_elsewhere() -> None:
    async def main() -> None:
        failing = Failing([failure(LOST), None])
        world = World(failing)
        assert (await world.retry.infer(REQUEST)).version == 1
        assert [request.avoid for _, request in failing.asked] == [None, "a"]
        assert world.count("retried") == 1

    simulate(main())


def test_there_is_one_more_try_and_no_third() -> None:
    async def main() -> None:
        failing = Failing([failure(LOST)])
        world = World(failing)
        with pytest.raises(Unavailable):
            await world.retry.infer(REQUEST)
        assert len(failing.asked) == 2

    simulate(main())


@pytest.mark.parametrize("fault", [FULL, None], ids=["overload", "of the request"])
def test_what_would_fail_again_or_do_harm_is_not_sent_again(fault: Fault | None) -> None:
    async def main() -> None:
        failing = Failing([failure(fault)])
        with pytest.raises(Unavailable):
            await World(failing).retry.infer(REQUEST)
        assert len(failing.asked) == 1

    simulate(main())


def test_a_version_that_is_being_swapped_is_given_time() -> None:
    async def main() -> None:
        failing = Failing([failure(SWAP), None])
        await World(failing).retry.infer(REQUEST)
        (first, _), (second, _) = failing.asked
        assert 0.05 <= second - first <= 0.2

    simulate(main())


@pytest.mark.parametrize(("seconds", "tries"), [(0.5, 2), (0.85, 1)])
def test_with_less_than_a_fifth_of_its_time_left_nothing_is_sent_again(seconds: float, tries: int) -> None:
    async def main() -> None:
        failing = Failing([failure(LOST)], seconds)
        world = World(failing)
        with pytest.raises(Unavailable):
            await world.retry.infer(InferRequest("m", (), deadline=1.0))
        assert len(failing.asked) == tries
        assert world.count("late") == 2 - tries

    simulate(main())


def test_a_server_that_fails_always_is_asked_a_fifth_more_and_ten_times_a_second() -> None:
    """The budget: a storm of retries must not be what keeps a server down."""

    async def main() -> None:
        failing = Failing([failure(LOST)])
        world = World(failing)
        calls = []
        for _ in range(2000):
            calls.append(asyncio.ensure_future(world.retry.infer(REQUEST)))
            await asyncio.sleep(0.001)
        await asyncio.gather(*calls, return_exceptions=True)
        assert 2000 < len(failing.asked) <= 2000 * 1.2 + 10 * 2 + 10
        assert world.count("budget") > 1000

    simulate(main())


def test_switched_off_nothing_is_sent_again() -> None:
    async def main() -> None:
        failing = Failing([failure(LOST), None])
        with pytest.raises(Unavailable):
            await World(failing, None).retry.infer(REQUEST)

    simulate(main())


def test_overdue_calls_take_retries_and_leave_half_of_a_seconds_for_failures() -> None:
    async def main() -> None:
        world = World(Failing([None]), Again(share=0.0, per_second=10.0))
        assert not world.retry.spare("m")  # no request has come, so there is no stock
        await world.retry.infer(REQUEST)
        assert sum(world.retry.spare("m") for _ in range(20)) == 5
        assert world.count("overdue") == 5
        off = World(Failing([None]), None)
        await off.retry.infer(REQUEST)
        assert not off.retry.spare("m")

    simulate(main())
