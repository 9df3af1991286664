"""The largest rate that holds a service level objective, as a state machine: it says what to try and is told."""

from __future__ import annotations

import math

BRACKET = 0.03
CONFIRMATIONS = 3
MOST_PROBES = 60


class RateSearch:
    """Doubles from ``start`` until a rate fails, bisects on its logarithm to 3 %, then wants three passes of three.

    A winner that fails in confirmation is stepped down by 3 %. `rate` is what to probe next, None once it is over;
    `found` is then the answer, 0 where no rate above ``least`` holds.

    >>> search = RateSearch(start=100, most=1_000_000)
    >>> while search.rate is not None:
    ...     search.tell(search.rate <= 1000)
    >>> 970 <= search.found <= 1000
    True
    """

    def __init__(self, *, start: float, most: float, least: float = 0.5) -> None:
        if not 0 < least <= start <= most:
            raise ValueError(f"a search wants 0 < {least:g} <= {start:g} <= {most:g}")
        self._least, self._most = least, most
        self._passed, self._failed = 0.0, math.inf
        self._confirming = 0
        self.rate: float | None = start
        self.found = 0.0
        self.probes: list[tuple[float, bool]] = []

    @property
    def limited_by_generator(self) -> bool:
        """Whether not even the greatest rate that the generator can make failed."""
        return self.rate is None and self.found == self._most

    def tell(self, passed: bool) -> None:
        if self.rate is None:
            raise ValueError("the search is over")
        self.probes.append((self.rate, passed))
        if len(self.probes) >= MOST_PROBES:
            self.rate = None
        elif self._confirming:
            self._confirm(passed)
        elif passed:
            self._passed = max(self._passed, self.rate)
            self._next()
        else:
            self._failed = min(self._failed, self.rate)
            self._next()

    def _next(self) -> None:
        if math.isinf(self._failed):
            if self._passed >= self._most:
                self._begin_confirming(self._most)
            else:
                self.rate = min(self._most, 2 * self._passed)
        elif not self._passed:
            self.rate = self._failed / 2 if self._failed / 2 >= self._least else None
        elif self._failed / self._passed <= 1 + BRACKET:
            self._begin_confirming(self._passed)
        else:
            self.rate = math.sqrt(self._passed * self._failed)

    def _begin_confirming(self, rate: float) -> None:
        self.rate, self._confirming = rate, CONFIRMATIONS

    def _confirm(self, passed: bool) -> None:
        assert self.rate is not None  # noqa: S101 - a search that is over is told nothing
        if not passed:
            lower = self.rate / (1 + BRACKET)
            self.rate, self._confirming = (lower, CONFIRMATIONS) if lower >= self._least else (None, 0)
            return
        self._confirming -= 1
        if not self._confirming:
            self.found, self.rate = self.rate, None
