"""How many requests may be in flight: a limit that follows the latency it causes.

After Netflix's Gradient2 (concurrency-limits, ``Gradient2Limit.java``): the limit falls where requests take longer than
they usually do, and grows by a little everywhere else. Bounds keep what drifts.

What requests "usually" take must not be learned from the queue that the limit itself lets stand: the average would
follow the overload up, and the limit with it. So it is learned where there is room, and, where the limit is reached for
long, from a trial with a third of it, as Envoy's adaptive concurrency does (its minRTT). A model that has become slower
for good shows it there, and so does one whose batches yield more the fuller they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

#: Windows are judged, not single requests: the shortest one, and the fewest answers in it.
_WINDOW_SECONDS = 0.05
_WINDOW_ANSWERS = 10
#: Answers that the long average looks back upon.
_LONG_ANSWERS = 600
#: A window's share in the next limit.
_SMOOTHING = 0.2
#: What is left of the limit after a window in which the server refused.
_BACK_OFF = 0.9
#: The long average falls at once where it is this many times what requests take now: after an outage, say.
_RECOVERED = 2.0
#: A trial has this share of the limit, and ends with so many answers to requests that began in it. The next one comes
#: after so many seconds, or times what requests take.
_TRIAL_SHARE = 1 / 3
_TRIAL_ANSWERS = 5
_TRIAL_EVERY_SECONDS = 5.0
_TRIAL_EVERY_TIMES = 20


@dataclass(slots=True)
class Gradient:
    """``limit`` stays between ``least`` and ``most``. Times are seconds of any clock that does not jump.

    ``tolerance``: how many times longer than usual is no reason to lower the limit; nor is what takes less than
    ``calm_seconds``: a batch that fills up takes longer and yields more.
    """

    limit: float
    least: int
    most: int
    tolerance: float = 2.0
    calm_seconds: float = 0.1
    long_seconds: float = 0.0
    short_seconds: float = 0.0
    _sum: float = 0.0
    _answers: int = 0
    _refusals: int = 0
    _most_in_flight: int = 0
    _window_ends: float = 0.0
    #: While one is made: since when, and the limit that it is to end with.
    _trial_since: float | None = None
    _trial_of: float = 0.0
    _next_trial_at: float = inf
    _as_usual_at: float = -inf
    _lowered_by_lateness: bool = False

    def answered(self, now: float, seconds: float, in_flight: int) -> bool:
        """One more answer, after ``seconds``, with ``in_flight`` before it left. True where the limit was judged."""
        if self._trial_since is not None:
            return self._tried(now, seconds)
        self._sum += seconds
        self._answers += 1
        if seconds <= self.tolerance * self.long_seconds:
            self._as_usual_at = now
        if in_flight > self._most_in_flight:
            self._most_in_flight = in_flight
        return self._answers >= _WINDOW_ANSWERS and now >= self._window_ends and self._judge(now)

    def refused(self, now: float) -> bool:
        """The server was too busy for one more. True where the limit was judged."""
        self._refusals += 1
        return now >= self._window_ends and self._trial_since is None and self._judge(now)

    def late(self, now: float, seconds: float) -> bool:
        """A request was given up at its deadline, ``seconds`` after it was sent. True where the limit was judged.

        Where that is no longer than usual, the request came late itself and says nothing of the server. Nor does it
        where others that were sent meanwhile were answered as usual: then it takes long itself.
        """
        if self._trial_since is not None:
            return self._tried(now, seconds)
        if seconds < self.long_seconds or self._as_usual_at - self.tolerance * self.long_seconds > now - seconds:
            return False
        self._lowered_by_lateness = True
        return self.refused(now)

    def bound(self, most: int) -> None:
        """Another upper bound: the server has more or fewer places than before. What was unbounded stays so."""
        at_most = self.limit >= self.most
        self.most = most
        self.limit = float(most) if at_most else min(self.limit, float(most))
        self._trial_of = min(self._trial_of, float(most))

    def _judge(self, now: float) -> bool:
        if self._answers:
            self.short_seconds = self._sum / self._answers
        if self._refusals:
            self.limit = max(float(self.least), self.limit * _BACK_OFF)
            self._perhaps_try(now)
        elif self._answers:
            self._look_at(now, self.short_seconds)
        self._begin_window(now)
        return True

    def _begin_window(self, now: float) -> None:
        self._sum, self._answers, self._refusals, self._most_in_flight = 0.0, 0, 0, 0
        self._window_ends = now + _WINDOW_SECONDS

    def _look_at(self, now: float, seconds: float) -> None:
        has_room = 2 * self._most_in_flight < self.limit
        if has_room or seconds < self.long_seconds or not self.long_seconds:
            weight = min(1.0, self._answers / _LONG_ANSWERS) if self.long_seconds else 1.0
            self.long_seconds += weight * (seconds - self.long_seconds)
        if self.long_seconds > _RECOVERED * seconds:
            self.long_seconds = (self.long_seconds + _RECOVERED * seconds) / 2
        if has_room:
            # Too little was in flight to tell anything; but what lateness has taken comes back, or a few requests that
            # take long by themselves would leave a model without its places.
            if self._lowered_by_lateness and seconds <= self.tolerance * self.long_seconds:
                self.limit = min(float(self.most), self.limit + _SMOOTHING * sqrt(self.limit))
                self._lowered_by_lateness = self.limit < self.most
            return
        calm = seconds <= self.calm_seconds
        gradient = 1.0 if calm else max(0.5, min(1.0, self.tolerance * self.long_seconds / seconds))
        wanted = self.limit * gradient + sqrt(self.limit)
        self.limit += _SMOOTHING * (wanted - self.limit)
        self.limit = min(float(self.most), max(float(self.least), self.limit))
        if gradient < 1.0:
            self._perhaps_try(now)

    def _perhaps_try(self, now: float) -> None:
        """The limit is lowered: now and then, looks how quick the server is with little to do."""
        wait = max(_TRIAL_EVERY_SECONDS, _TRIAL_EVERY_TIMES * self.short_seconds)
        if self._next_trial_at == inf:
            self._next_trial_at = now + wait
        if now < self._next_trial_at:
            return
        self._next_trial_at = now + wait
        self._trial_since, self._trial_of = now, self.limit
        self.limit = max(float(self.least), _TRIAL_SHARE * self.limit)

    def _tried(self, now: float, seconds: float) -> bool:
        """What began before the trial stood in the queue that it is to be without."""
        if self._trial_since is None or now - seconds < self._trial_since:
            return False
        self._sum += seconds
        self._answers += 1
        if self._answers < _TRIAL_ANSWERS:
            return False
        self.long_seconds = self.short_seconds = self._sum / self._answers
        self.limit, self._trial_since = self._trial_of, None
        self._begin_window(now)
        return True
