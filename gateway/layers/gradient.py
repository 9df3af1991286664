"""How many requests may be in flight: a limit that follows the latency it causes.

After Netflix's Gradient2 (concurrency-limits, ``Gradient2Limit.java``): the limit falls where requests take longer than
they used to, and grows by a little everywhere else. What a request "used to" take is a moving average that follows a
lasting change, so that the limit answers to changes and not to slow models. Bounds keep what drifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

#: Windows are judged, not single requests: the shortest one, and the fewest answers in it.
_WINDOW_SECONDS = 0.05
_WINDOW_ANSWERS = 10
#: Answers that the long average looks back upon.
_LONG_ANSWERS = 600
#: A window's share in the next limit.
_SMOOTHING = 0.2
#: What is left of the limit after a window in which the server refused, or answered too late.
_BACK_OFF = 0.9
#: The long average falls at once where it is this many times what requests take now: after an outage, say.
_RECOVERED = 2.0


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

    def answered(self, now: float, seconds: float, in_flight: int) -> bool:
        """One more answer, after ``seconds``, with ``in_flight`` before it left. True where the limit was judged."""
        self._sum += seconds
        self._answers += 1
        if in_flight > self._most_in_flight:
            self._most_in_flight = in_flight
        return self._answers >= _WINDOW_ANSWERS and now >= self._window_ends and self._judge(now)

    def refused(self, now: float) -> bool:
        """The server was too busy for one more, or answered too late. True where the limit was judged."""
        self._refusals += 1
        return now >= self._window_ends and self._judge(now)

    def bound(self, most: int) -> None:
        """Another upper bound: the server has more or fewer places than before. What was unbounded stays so."""
        at_most = self.limit >= self.most
        self.most = most
        self.limit = float(most) if at_most else min(self.limit, float(most))

    def _judge(self, now: float) -> bool:
        if self._refusals:
            self.limit = max(float(self.least), self.limit * _BACK_OFF)
        if self._answers:
            self._look_at(self._sum / self._answers)
        self._sum, self._answers, self._refusals, self._most_in_flight = 0.0, 0, 0, 0
        self._window_ends = now + _WINDOW_SECONDS
        return True

    def _look_at(self, seconds: float) -> None:
        self.short_seconds = seconds
        weight = min(1.0, self._answers / _LONG_ANSWERS) if self.long_seconds else 1.0
        self.long_seconds += weight * (seconds - self.long_seconds)
        if self.long_seconds > _RECOVERED * seconds:
            self.long_seconds = (self.long_seconds + _RECOVERED * seconds) / 2
        if self._refusals or 2 * self._most_in_flight < self.limit:
            return  # lowered already, or too little was in flight to tell anything
        calm = seconds <= self.calm_seconds
        gradient = 1.0 if calm else max(0.5, min(1.0, self.tolerance * self.long_seconds / seconds))
        wanted = self.limit * gradient + max(4.0, sqrt(self.limit))
        self.limit += _SMOOTHING * (wanted - self.limit)
        self.limit = min(float(self.most), max(float(self.least), self.limit))
