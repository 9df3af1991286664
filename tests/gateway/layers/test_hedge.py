from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from gateway.backends.base import Layer
from gateway.errors import Unavailable
from gateway.layers.hedge import Hedge
from gateway.layers.signals import Signals
from gateway.types import InferRequest, InferResponse
from tests.fakes.simulated import simulate

REQUEST = InferRequest("m", ())


class Sometimes(Layer):
    """One call of ``one_in`` takes ``slow`` seconds, the others ten milliseconds."""

    def __init__(self, one_in: int, slow: float) -> None:
        self.one_in = one_in
        self.slow = slow
        self.calls = 0
        self.in_flight = 0
        self.away = False

    async def infer(self, request: InferRequest) -> InferResponse:
        self.calls += 1
        self.in_flight += 1
        try:
            await asyncio.sleep(self.slow if self.calls % self.one_in == 0 else 0.01)
            if self.away:
                raise Unavailable("away")
        finally:
            self.in_flight -= 1
        return InferResponse(request.model, "v", 1, ())


def hedged(inner: Layer, share: float | None = 0.02) -> Hedge:
    clock = asyncio.get_running_loop().time
    return Hedge(inner, variant="v", signals=Signals(CollectorRegistry()), default=share, clock=clock)


async def durations(hedge: Hedge, calls: int) -> list[float]:
    found, loop = [], asyncio.get_running_loop()
    for _ in range(calls):
        started = loop.time()
        await hedge.infer(REQUEST)
        found.append(loop.time() - started)
    return found


def test_the_rare_slow_call_is_answered_by_a_second_one() -> None:
    async def main() -> None:
        inner = Sometimes(97, 1.0)
        hedge = hedged(inner)
        await durations(hedge, 64)
        seconds = await durations(hedge, 2000)
        assert sorted(seconds)[-10] < 0.1
        assert inner.in_flight == 0

    simulate(main())


def test_a_server_that_is_slow_altogether_gets_a_fiftieth_more_and_no_flood() -> None:
    async def main() -> None:
        inner = Sometimes(10**9, 0)
        hedge = hedged(inner)
        await durations(hedge, 64)
        inner.one_in, inner.slow = 1, 0.5
        before = inner.calls
        await durations(hedge, 1000)
        assert inner.calls - before <= 1000 * 1.02 + 4

    simulate(main())


def test_where_both_fail_the_failure_is_told() -> None:
    async def main() -> None:
        inner = Sometimes(10**9, 0)
        hedge = hedged(inner, 0.2)
        await durations(hedge, 64)
        inner.one_in, inner.slow, inner.away = 1, 0.5, True
        with pytest.raises(Unavailable):
            await hedge.infer(REQUEST)
        assert inner.in_flight == 0

    simulate(main())


def test_a_caller_who_leaves_ends_both_calls() -> None:
    async def main() -> None:
        inner = Sometimes(10**9, 0)
        hedge = hedged(inner, 0.2)
        await durations(hedge, 64)
        inner.one_in, inner.slow = 1, 9.0
        task = asyncio.ensure_future(hedge.infer(REQUEST))
        await asyncio.sleep(1)
        assert inner.in_flight == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inner.in_flight == 0

    simulate(main())


def test_off_there_is_one_call() -> None:
    async def main() -> None:
        inner = Sometimes(2, 1.0)
        await durations(hedged(inner, None), 100)
        assert inner.calls == 100

    simulate(main())
