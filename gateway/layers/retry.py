"""A request that failed through no fault of its own is sent once more: elsewhere where there is an elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import exp
from time import monotonic
from typing import Any

from gateway.backends.base import Backend, Layer
from gateway.errors import DuetError, Fault
from gateway.layers.signals import Signals
from gateway.types import InferRequest, InferResponse

#: Requests are remembered for about so long: an outage begins with a small stock of retries and not with a flood.
_MEMORY_SECONDS = 2.0
#: Requests within it count as one moment's.
_MOMENT_SECONDS = 0.01
#: Of the time that a request had, what must be left for another try.
_LEAST_LEFT = 0.2
#: Of the retries for each second, what is kept for failures that no request can cause.
_KEPT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Again:
    """When a request of a model may be sent once more.

    ``share`` of the requests may be, and ``per_second`` more; each waits up to ``wait_seconds``, drawn at random, so
    that those who failed together do not come back together. A version that is being swapped is given longer.
    """

    share: float = 0.2
    per_second: float = 10.0
    wait_seconds: float = 0.02
    swap_seconds: tuple[float, float] = (0.05, 0.2)


@dataclass(slots=True)
class Allowance:
    """How many retries there may be, after Finagle's RetryBudget: a share of requests, and some each second."""

    again: Again
    _of_requests: float = 0.0
    _of_time: float = field(init=False)
    _at: float = 0.0

    def __post_init__(self) -> None:
        self._of_time = self.again.per_second

    def sent(self, now: float) -> None:
        """One more request, which is no retry."""
        if now - self._at > _MOMENT_SECONDS:
            self._pass(now)
        self._of_requests += self.again.share

    def take(self, now: float, *, least_left: float = 0.0) -> bool:
        """Takes one retry, if there is one, and leaves ``least_left`` for others."""
        if self.left(now) < 1.0 + least_left:
            return False
        if self._of_requests >= 1.0:
            self._of_requests -= 1.0
            return True
        if self._of_time >= 1.0:
            self._of_time -= 1.0
            return True
        return False

    def left(self, now: float) -> float:
        """How many retries there may be now."""
        self._pass(now)
        return self._of_requests + self._of_time

    def _pass(self, now: float) -> None:
        seconds, self._at = now - self._at, now
        if seconds > 0:
            self._of_requests *= exp(-seconds / _MEMORY_SECONDS)
            self._of_time = min(self.again.per_second, self._of_time + seconds * self.again.per_second)


class Retry(Layer):
    """Sends what may be sent again once more. Nothing has gone to the client by then: an answer comes whole or not.

    What a request can have brought upon itself is not sent again in company: who joined requests asks for each alone,
    with the endpoint that failed in ``avoid``. That is their second try. And such failures leave a part of the retries
    for those that are no request's doing: one caller's must not use them up.

    ``default`` is for models that ``models`` does not name; None, in either, is never.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        variant: str,
        signals: Signals,
        default: Again | None,
        models: Mapping[str, Again | None] | None = None,
        clock: Callable[[], float] = monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(inner)
        self._variant = variant
        self._signals = signals
        self._default = default
        self._models = models or {}
        self._clock = clock
        self._draw = draw
        self._allowances: dict[str, Allowance | None] = {}

    async def infer(self, request: InferRequest) -> InferResponse:
        model = request.model
        allowance = self._allowances[model] if model in self._allowances else self._opened(model)
        if allowance is None:
            return await self.inner.infer(request)
        started = self._clock()
        allowance.sent(started)
        try:
            return await self.inner.infer(request)
        except DuetError as error:
            fault = error.fault
            if fault is None or not fault.retry_safe:
                raise
            if fault.by_request and (request.callers > 1 or request.avoid is not None):
                raise
            wait = self._wait(allowance.again, fault)
            outcome = self._outcome(request, allowance, started, wait, fault)
            self._signals.retries(model, self._variant, outcome).inc()
            if outcome != "retried":
                raise
            endpoint = error.endpoint
        await asyncio.sleep(wait)
        return await self.inner.infer(replace(request, avoid=endpoint))

    def spare(self, model: str) -> bool:
        """Takes a retry for a call that is overdue and still open, and leaves what is kept for other failures."""
        allowance = self._allowances.get(model)
        if allowance is None:
            return False
        if not allowance.take(self._clock(), least_left=_KEPT_SHARE * allowance.again.per_second):
            return False
        self._signals.retries(model, self._variant, "overdue").inc()
        return True

    def state(self) -> dict[str, Any]:
        """For operators: how many retries each model has left now."""
        now = self._clock()
        known = sorted(self._allowances.items())
        return {model: {"left": round(entry.left(now), 1)} for model, entry in known if entry is not None}

    def _outcome(self, request: InferRequest, allowance: Allowance, started: float, wait: float, fault: Fault) -> str:
        now = self._clock()
        if request.deadline is not None:
            left = request.deadline - asyncio.get_running_loop().time()
            if left - wait < _LEAST_LEFT * (left + now - started):
                return "late"
        kept = _KEPT_SHARE * allowance.again.per_second if fault.by_request else 0.0
        return "retried" if allowance.take(now, least_left=kept) else "budget"

    def _wait(self, again: Again, fault: Fault) -> float:
        least, most = again.swap_seconds if fault.name == "swap" else (0.0, again.wait_seconds)
        return self._draw(least, most)

    def _opened(self, model: str) -> Allowance | None:
        again = self._models.get(model, self._default)
        allowance = self._allowances[model] = Allowance(again, _at=self._clock()) if again else None
        return allowance
