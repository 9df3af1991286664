"""Not more requests in flight than a model can work on: the rest waits a little or is told at once to come later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any

from gateway.backends.base import Backend, Layer
from gateway.errors import DeadlineExceeded, DuetError
from gateway.layers.gate import Gate, Refused, Waits
from gateway.layers.gradient import Gradient
from gateway.layers.signals import Signals
from gateway.types import InferRequest, InferResponse


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one model. ``most`` None follows what the server can work on; the limit begins there, or at ``initial``.

    While requests take less than ``calm_seconds``, they are no reason to lower it.
    """

    least: int = 1
    initial: int | None = None
    most: int | None = None
    calm_seconds: float = 0.1
    waits: Waits = Waits()  # noqa: RUF009 - frozen


class Budget:
    """Bytes of requests in flight, over all models: each is held in memory until it is answered."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0

    def take(self, size: int) -> bool:
        """One that is larger than the whole budget goes alone, or it never could."""
        if self.used_bytes and self.used_bytes + size > self.max_bytes:
            return False
        self.used_bytes += size
        return True

    def give_back(self, size: int) -> None:
        self.used_bytes -= size


class Limit(Layer):
    """Holds the requests for each model of ``variant`` to a limit of its own, and all together to ``budget``.

    ``default`` is for models that ``models`` does not name; None, in either, leaves a model without a limit.
    ``places`` tells how many requests for a model are of use in flight, as far as is known. Raises ResourceExhausted.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        variant: str,
        signals: Signals,
        budget: Budget,
        places: Callable[[str], int],
        default: Bounds | None,
        models: Mapping[str, Bounds | None] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(inner)
        self._variant = variant
        self._signals = signals
        self._budget = budget
        self._places = places
        self._default = default
        self._models = models or {}
        self._clock = clock  # finer than the event loop's own, which may count whole milliseconds
        self._lanes: dict[str, _Lane | None] = {}

    async def infer(self, request: InferRequest) -> InferResponse:
        try:
            lane = self._lanes[request.model]
        except KeyError:
            lane = self._lanes[request.model] = self._opened(request.model)
        if lane is None:
            return await self.inner.infer(request)
        return await lane.infer(self.inner, request)

    def state(self) -> dict[str, Any]:
        """For operators: each model's limit and what it holds now."""
        return {model: lane.state() for model, lane in sorted(self._lanes.items()) if lane is not None}

    def _opened(self, model: str) -> _Lane | None:
        bounds = self._models.get(model, self._default)
        if bounds is None:
            return None
        return _Lane(model, self._variant, bounds, self._signals, self._budget, self._places, self._clock)


class _Lane:
    """The gate of one model, and the timer that looks after those who wait in front of it."""

    def __init__(
        self,
        model: str,
        variant: str,
        bounds: Bounds,
        signals: Signals,
        budget: Budget,
        places: Callable[[str], int],
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._variant = variant
        self._bounds = bounds
        self._signals = signals
        self._budget = budget
        self._places = places
        most = self._most()
        initial = float(min(bounds.initial or most, most))
        self._gradient = Gradient(initial, bounds.least, most, calm_seconds=bounds.calm_seconds)
        self._gate = Gate(model, self._gradient, bounds.waits)
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._look_again: asyncio.TimerHandle | None = None
        self._waited = signals.waited(model, variant)
        signals.limit(model, variant).set(int(self._gradient.limit))

    async def infer(self, backend: Backend, request: InferRequest) -> InferResponse:
        gate, clock, size = self._gate, self._clock, _size(request)
        if not self._budget.take(size):
            error = Refused(request.model, "cannot be asked: too many bytes are in flight", "bytes")
            self._count(error)
            raise error
        if not gate.try_enter(request.criticality):
            try:
                await self._wait(request)
            except BaseException:
                self._budget.give_back(size)
                raise
        started = now = clock()
        try:
            response = await backend.infer(request)
            now = clock()
        except DuetError as error:
            if isinstance(error, DeadlineExceeded) and (error.fault is None or error.fault.counts):
                self._late(started)
            elif _is_overload(error) and self._gradient.refused(clock()):
                self._judged()
            raise
        except asyncio.CancelledError:
            if request.deadline is not None and self._loop.time() >= request.deadline:
                self._late(started)
            raise
        else:
            if self._gradient.answered(now, now - started, gate.in_flight):
                self._judged()
            return response
        finally:
            gate.leave(now if now > started else clock())
            self._budget.give_back(size)

    def _count(self, error: Refused) -> None:
        self._signals.refused(self._model, self._variant, error.reason).inc()

    def state(self) -> dict[str, Any]:
        return {
            "limit": int(self._gradient.limit),
            "most": self._gradient.most,
            "in_flight": self._gate.in_flight,
            "queued": self._gate.queued,
            "seconds": round(self._gradient.short_seconds, 6),
            "usual_seconds": round(self._gradient.long_seconds, 6),
        }

    async def _wait(self, request: InferRequest) -> None:
        since = self._clock()
        try:
            left = self._left(request)
            place = self._gate.queue(since, request.criticality, self._loop.create_future(), left=left)
            self._watch()
            try:
                await place.turn
            except asyncio.CancelledError:
                self._gate.give_up(place, self._clock())
                raise
            if self._left(request) < self._gradient.long_seconds:
                # Its answer would come too late, and those behind it would have waited for nothing.
                self._gate.leave(self._clock())
                raise Refused(self._model, "is busy", "age")
        except Refused as error:
            self._count(error)
            raise
        self._waited.observe(self._clock() - since)

    def _left(self, request: InferRequest) -> float:
        return inf if request.deadline is None else request.deadline - self._loop.time()

    def _watch(self) -> None:
        """While someone waits, looks now and then whether it is too long: a server that hangs lets nobody in."""
        if self._look_again is None:
            self._look_again = self._loop.call_later(self._gate.interval_seconds / 2, self._look)

    def _look(self) -> None:
        self._look_again = None
        self._gate.advance(self._clock())
        if self._gate.queued:
            self._watch()

    def _late(self, started: float) -> None:
        now = self._clock()
        if self._gradient.late(now, now - started):
            self._judged()

    def _judged(self) -> None:
        most = self._most()
        if most != self._gradient.most:
            self._gradient.bound(most)
        self._gate.share()
        self._signals.limit(self._model, self._variant).set(int(self._gradient.limit))
        self._signals.admitted(self._model, self._variant).set(self._gate.in_flight)

    def _most(self) -> int:
        most = self._bounds.most
        return max(self._bounds.least, self._places(self._model) if most is None else most)


def _is_overload(error: DuetError) -> bool:
    """Whether the server has too much to do. One that a request can make it say is no such sign."""
    return error.fault is not None and error.fault.name == "overload" and not error.fault.by_request


def _size(request: InferRequest) -> int:
    """Bytes of the request's numbers; strings are counted by their pointers, which is of their order."""
    if request.payload is not None:
        return len(request.payload.body)
    size = 0
    for tensor in request.inputs:
        size += tensor.data.nbytes
    return size
