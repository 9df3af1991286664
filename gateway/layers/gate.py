"""Who may go on and who waits, for one model of one server. A state machine: time comes in as an argument."""

from __future__ import annotations

from asyncio import Future
from collections import deque
from dataclasses import dataclass
from math import ceil, inf

from gateway.errors import ResourceExhausted
from gateway.layers.gradient import Gradient
from gateway.types import Criticality

#: Of the limit, what requests of each criticality may take, in tenths: the rest is left to those above them.
_TENTHS = {Criticality.SHEDDABLE: 8, Criticality.DEFAULT: 9, Criticality.CRITICAL: 10}
_IN_ORDER = sorted(_TENTHS)

RETRY_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Waits:
    """How long requests may wait where the limit is reached, after CoDel (RFC 8289).

    A burst may wait ``interval_seconds``. Once the queue has stood for that long, it is no burst but overload: then
    nobody is let in who would have to wait ``target_seconds``, so that who is let in is answered and who is not knows
    at once. What a model usually takes itself stands in place of a shorter ``target_seconds``, and so does what
    it takes now while that is no reason to lower the limit: else nobody could ever wait for one request to end. The
    interval grows with it. ``most`` bounds the queue.
    """

    target_seconds: float = 0.005
    interval_seconds: float = 0.1
    most: int = 512


class Refused(ResourceExhausted):
    """``reason`` is for metrics."""

    def __init__(self, model: str, text: str, reason: str) -> None:
        super().__init__(f"{model} {text}; try again later", retry_after_seconds=RETRY_AFTER_SECONDS)
        self.reason = reason


@dataclass(slots=True, eq=False)
class Place:
    """A request in the queue. ``turn`` is set when it may go on: from then on it counts as in flight."""

    since: float
    turn: Future[None]


class Gate:
    """Counts requests in and out. Those that `try_enter` turns away may `queue`; `leave` lets the next ones in."""

    def __init__(self, model: str, gradient: Gradient, waits: Waits) -> None:
        self.model = model
        self.gradient = gradient
        self.in_flight = 0
        self._waits = waits
        self._critical: deque[Place] = deque()
        self._others: deque[Place] = deque()
        self._stands_since: float | None = None
        self._overloaded_until = -inf
        self._shares: list[int] = []  # by the criticality's number: an Enum is a slow key
        self.share()

    def share(self) -> None:
        """Reckons what each criticality may take; to be called when the limit has changed."""
        limit = int(self.gradient.limit)
        self._shares = [ceil(limit * _TENTHS[criticality] / 10) for criticality in _IN_ORDER]

    @property
    def queued(self) -> int:
        return len(self._critical) + len(self._others)

    @property
    def target_seconds(self) -> float:
        gradient = self.gradient
        is_calm = gradient.short_seconds <= gradient.calm_seconds
        tolerated = gradient.short_seconds if is_calm else 0.0
        return max(self._waits.target_seconds, gradient.long_seconds, tolerated)

    @property
    def interval_seconds(self) -> float:
        return max(self._waits.interval_seconds, 2 * self.target_seconds)

    def try_enter(self, criticality: Criticality) -> bool:
        """Takes a place in flight, if one is free for it and nobody waits before it."""
        if self.in_flight >= self._shares[criticality] or self._critical:
            return False
        if self._others and criticality is not Criticality.CRITICAL:
            return False
        self.in_flight += 1
        return True

    def queue(self, now: float, criticality: Criticality, turn: Future[None], *, left: float = inf) -> Place:
        """Raises Refused where it is not worth the wait, to a request that has ``left`` seconds to be answered too."""
        if criticality is Criticality.SHEDDABLE:
            raise Refused(self.model, "is busy, and the request may be shed", "shed")
        critical = criticality is Criticality.CRITICAL
        ahead = len(self._critical) if critical else self.queued
        wait = ahead * self.gradient.short_seconds / max(1.0, self.gradient.limit)
        if self.queued >= self._waits.most or wait > min(self._worth(now), left - self.gradient.long_seconds):
            raise Refused(self.model, "is busy", "queue")
        if self._stands_since is None:
            self._stands_since = now
        place = Place(now, turn)
        (self._critical if critical else self._others).append(place)
        return place

    def leave(self, now: float) -> None:
        """Gives a place in flight back, and lets in who is next."""
        self.in_flight -= 1
        if self._critical or self._others:
            self.advance(now)

    def give_up(self, place: Place, now: float) -> None:
        """Its caller is gone: out of the queue, or, where its turn has just come, out of what is in flight."""
        if place.turn.done() and not place.turn.cancelled() and place.turn.exception() is None:
            self.leave(now)
            return
        for line in (self._critical, self._others):
            if place in line:
                line.remove(place)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Refuses who waited too long, and lets in who is next while there are places."""
        latest = now - self.interval_seconds
        for line, criticality in ((self._critical, Criticality.CRITICAL), (self._others, Criticality.DEFAULT)):
            while line and (line[0].since < latest or line[0].turn.done()):
                place = line.popleft()
                if not place.turn.done():
                    place.turn.set_exception(Refused(self.model, "is busy", "age"))
            while line and self.in_flight < self._shares[criticality]:
                place = line.popleft()
                if not place.turn.done():
                    self.in_flight += 1
                    place.turn.set_result(None)
        if not self._others and not self._critical:
            self._stands_since = None

    def _worth(self, now: float) -> float:
        """Seconds that a request may be expected to wait: the burst's, or, while the queue stands, much less."""
        interval = self.interval_seconds
        if self._stands_since is not None and now - self._stands_since >= interval:
            self._overloaded_until = now + interval
        return self.target_seconds if now < self._overloaded_until else interval
