"""A call that takes unusually long is sent once more, and the first answer counts.

Source: Dean, Barroso: The Tail at Scale (CACM 2013), "hedged requests".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from gateway.backends.base import Backend, Layer
from gateway.errors import DuetError
from gateway.layers.signals import Signals
from gateway.types import InferRequest, InferResponse

#: Answers that "unusually" is judged by, and how often it is.
_REMEMBERED = 256
_JUDGE_EVERY = 32
#: Where all calls take about the same, none of them is late for being among the last twentieth.
_MARGIN = 1.1
#: Hedges that may be saved up.
_MOST_SAVED = 4.0


@dataclass(slots=True)
class Patience:
    """When a second call is worth it: after the 95th percentile of the last answers, for ``share`` of the calls."""

    share: float
    seconds: float | None = None
    _saved: float = 0.0
    _count: int = 0
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def sent(self) -> None:
        """One more call, which is no hedge."""
        self._saved = min(_MOST_SAVED, self._saved + self.share)

    def answered(self, seconds: float) -> None:
        self._last.append(seconds)
        self._count += 1
        if self._count % _JUDGE_EVERY == 0:
            self.seconds = _MARGIN * sorted(self._last)[int(0.95 * len(self._last))]

    def take(self) -> bool:
        """Takes one hedge, if there is one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


class Hedge(Layer):
    """Of each model's calls, a share may be sent twice; the one that loses is given up.

    ``default`` is the share of models that ``models`` does not name; None, in either, is none.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        variant: str,
        signals: Signals,
        default: float | None,
        models: Mapping[str, float | None] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(inner)
        self._variant = variant
        self._signals = signals
        self._default = default
        self._models = models or {}
        self._clock = clock
        self._patience: dict[str, Patience | None] = {}

    async def infer(self, request: InferRequest) -> InferResponse:
        model = request.model
        patience = self._patience[model] if model in self._patience else self._opened(model)
        if patience is None:
            return await self.inner.infer(request)
        patience.sent()
        started = self._clock()
        if patience.seconds is None:
            response = await self.inner.infer(request)
        else:
            response = await self._race(request, patience, patience.seconds)
        patience.answered(self._clock() - started)
        return response

    async def _race(self, request: InferRequest, patience: Patience, seconds: float) -> InferResponse:
        calls = [asyncio.create_task(self.inner.infer(request))]
        try:
            done, _ = await asyncio.wait(calls, timeout=seconds)
            if done or not patience.take():
                return await calls[0]
            calls.append(asyncio.create_task(self.inner.infer(request)))
            first = await _first_answer(calls)
            won = "second" if first is calls[1] else "first"
            self._signals.hedges(request.model, self._variant, won).inc()
            return first.result()
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _opened(self, model: str) -> Patience | None:
        share = self._models.get(model, self._default)
        patience = self._patience[model] = Patience(share) if share else None
        return patience


async def _first_answer(calls: list[asyncio.Task[InferResponse]]) -> asyncio.Task[InferResponse]:
    """The first that answers; where none does, one that failed."""
    waiting = set(calls)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for call in done:
            if not isinstance(call.exception(), DuetError):
                return call
    return calls[0]
