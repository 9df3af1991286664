"""Which endpoint has fallen silent, judged by calls that are still open. A state machine: time comes in as an argument.

A caller may give a call half a minute. An endpoint that hangs must be known long before that, by its calls' age. Age
alone proves nothing: a model may be slow, and some of its calls slower. So an endpoint is silent only where

- a call waits much longer than calls of this model were seen to take, at this endpoint or at its peers,
- nothing came from the endpoint since, for this model, and
- another endpoint that could take the call is not silent.

What turns out to be wrong is learned from: the endpoint's patience grows when it answers soon after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from math import exp, inf
from typing import TYPE_CHECKING, Any

from gateway.errors import DuetError
from gateway.servers.pace import Pace
from gateway.types import InferRequest, InferResponse

if TYPE_CHECKING:
    from gateway.servers.endpoint import Endpoint

#: While calls are open they are looked at this often.
SWEEP_SECONDS = 0.05
#: A sweep that comes so much later means that this process stood still, and its answers wait unread.
_STOOD_STILL_SECONDS = 0.1
#: Longer than a pause of a garbage collector.
LEAST_PATIENCE_SECONDS = 0.25
#: Longer than the longest call of late.
_TIMES_LONGEST = 3.0
#: The first call to an endpoint may load what the model needs.
_FIRST_PATIENCE_SECONDS = 5.0
#: All endpoints may have stood still together, and one of them may answer a little before the other.
_SURE_SECONDS = 0.1
#: The longest call is remembered for this many answers, or for this time, and at most twice as long.
_WINDOW_ANSWERS = 128
_WINDOW_SECONDS = 30.0
#: An endpoint that answers so soon after it was suspected was slow, not hung: its patience doubles, up to a bound.
_SOON_SECONDS = 10.0
_MOST_TIMES = 8.0
#: A patience that has grown falls back to a third of the growth in this time.
_FORGET_SECONDS = 60.0


class Call:
    """One call on its way. ``tried`` are the addresses that its request went to before.

    ``second`` is the same request at another endpoint. Where that answers first, it interrupts the waiting task.
    """

    # On the class, not on each of many calls: hardly any of them changes one.
    tried: tuple[str, ...] = ()
    #: Whether it has counted against its endpoint, by its age.
    counted = False
    ended = False
    second: asyncio.Task[InferResponse] | None = None
    answer: InferResponse | None = None
    _cancelling = 0

    def __init__(self, request: InferRequest, started: float) -> None:
        self.request = request
        self.started = started
        # With the loop named, since it takes a third of the time so.
        self.task: asyncio.Task[Any] | None = asyncio.current_task(asyncio.get_running_loop())

    def follow(self, second: asyncio.Task[InferResponse]) -> None:
        self.second = second
        self._cancelling = self.task.cancelling() if self.task is not None else 0
        second.add_done_callback(self._seconded)

    def _seconded(self, second: asyncio.Task[InferResponse]) -> None:
        """A second that fails changes nothing: the first may still answer."""
        if second.cancelled() or second.exception() is not None or self.ended or self.task is None:
            return
        self.answer = second.result()
        self.task.cancel()

    def take(self) -> InferResponse | None:
        """The second's answer, in place of the interruption; None where the task was cancelled by somebody else too."""
        answer, self.answer = self.answer, None
        if answer is None or self.task is None:
            return None
        return None if self.task.uncancel() > self._cancelling else answer

    async def seconds_answer(self) -> InferResponse | None:
        """Waits for it: the first has failed. None where the second fails too."""
        self.ended = True
        if self.second is None:
            return None
        try:
            return await self.second
        except DuetError:
            return None

    async def settle(self) -> None:
        """Ends the second. It must not read the request's memory any more, which may be used again from here on."""
        if self.answer is not None and self.task is not None:  # both came at the same moment
            self.answer = None
            self.task.uncancel()
        if self.second is not None and not self.second.done():
            self.second.cancel()
            await asyncio.wait([self.second])


@dataclass(slots=True, eq=False)
class Calls:
    """The calls of one model at one endpoint: those that are open, and what is known of those that were."""

    endpoint: Endpoint
    model: str
    pace: Pace = field(default_factory=Pace)
    #: In the order in which they began.
    open: dict[Call, None] = field(default_factory=dict)
    #: Whether a `Sweep` looks at them.
    watched: bool = False
    _answered: bool = False
    _longest: float = 0.0
    _longest_before: float = 0.0
    _window_answers: int = 0
    _window_began: float = -inf
    _lived_at: float = -inf
    _alone_since: float | None = None
    _suspected_at: float | None = None
    _times: float = 1.0
    _times_at: float = 0.0

    def answered(self, now: float, seconds: float) -> None:
        self._answered = True
        self._window_answers += 1
        if self._window_answers > _WINDOW_ANSWERS or now - self._window_began > _WINDOW_SECONDS:
            self._longest_before = self._longest if now - self._window_began <= 2 * _WINDOW_SECONDS else 0.0
            self._longest, self._window_answers, self._window_began = 0.0, 0, now
        if seconds > self._longest:
            self._longest = seconds
        self._lived_at = now
        if self._suspected_at is not None:
            self._cleared(now, self._suspected_at)

    def lived(self, now: float) -> None:
        """A sign of life for this model: an answer, or a refusal."""
        self._lived_at = now
        if self._suspected_at is not None:
            self._cleared(now, self._suspected_at)

    def _cleared(self, now: float, suspected_at: float) -> None:
        if now - suspected_at <= _SOON_SECONDS:
            self._times, self._times_at = min(_MOST_TIMES, 2 * self._times_now(now)), now
        self.pace.forgive()
        self._suspected_at = None

    @property
    def longest_seconds(self) -> float:
        """What the longest call of late took; 0 where none was answered."""
        return max(self._longest, self._longest_before)

    def patience(self, now: float, longest_seconds: float) -> float:
        """Seconds that a call may take before it is overdue. ``longest_seconds`` is of all endpoints."""
        if not longest_seconds:
            return inf  # nobody knows what this model takes
        least = LEAST_PATIENCE_SECONDS if self._answered else _FIRST_PATIENCE_SECONDS
        return self._times_now(now) * max(least, _TIMES_LONGEST * longest_seconds)

    def age(self, now: float) -> float:
        """How long the oldest call has been open, or, where that is less, since the last sign of life."""
        for call in self.open:
            return now - max(call.started, self._lived_at)
        return 0.0

    def look(self, now: float, *, alone: bool) -> bool:
        """``alone``: nothing came for too long, and another endpoint could do better. True once that is sure."""
        if not alone:
            self._alone_since = None
            self.endpoint.silent.discard(self.model)
            return False
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since < _SURE_SECONDS:
            return False
        self.endpoint.silent.add(self.model)
        if self._suspected_at is None:
            self._suspected_at = now
        return True

    def overdue(self, now: float, patience: float) -> Iterator[Call]:
        for call in list(self.open):
            if now - call.started < patience:
                return
            yield call

    def _times_now(self, now: float) -> float:
        if self._times == 1.0:
            return 1.0
        return 1.0 + (self._times - 1.0) * exp((self._times_at - now) / _FORGET_SECONDS)


class Sweep:
    """Looks at open calls now and then, as long as there are any: one timer for all, none for each.

    ``look`` gets the time and all `Calls` that have some open.
    """

    def __init__(self, look: Callable[[float, list[Calls]], None], *, clock: Callable[[], float]) -> None:
        self._look = look
        self._clock = clock
        self._watched: list[Calls] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        #: What a sweep begins has no caller of its own.
        self._context = Context()

    def watch(self, calls: Calls) -> None:
        calls.watched = True
        self._watched.append(calls)
        if self._timer is None:
            self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + SWEEP_SECONDS
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, context=self._context)

    def _sweep(self) -> None:
        self._timer = None
        now, kept = self._clock(), []
        for calls in self._watched:
            if calls.open:
                kept.append(calls)
            else:
                calls.watched = False
                calls.look(now, alone=False)
        self._watched = kept
        if not kept:
            return
        stood_still = asyncio.get_running_loop().time() - self._due > _STOOD_STILL_SECONDS
        self._arm()
        if not stood_still:
            self._look(now, kept)
