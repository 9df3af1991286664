"""How many bytes of requests and answers may lie in memory at once."""

from __future__ import annotations

import threading
from types import TracebackType

#: Of each claim these count for nothing: a small request gets through however many large ones there are.
FREE_BYTES = 64 << 10


class Crowded(Exception):
    """The budget is spent; the text says what to do."""


class Budget:
    """Bytes for all claims together. Any thread may claim.

    >>> with Budget(1 << 20).claim() as claim:
    ...     claim.add(1 << 20)
    """

    def __init__(self, total_bytes: int) -> None:
        self._left = total_bytes
        self._lock = threading.Lock()

    def claim(self) -> Claim:
        return Claim(self)

    def grow(self, claim: Claim, count: int) -> None:
        with self._lock:
            wanted = max(claim.added + count - FREE_BYTES, 0) - claim.taken
            if claim.released or not wanted:
                claim.added += count
                return
            if wanted > self._left:
                raise Crowded("the server holds too many large requests and answers; try again later")
            self._left -= wanted
            claim.added += count
            claim.taken += wanted

    def release(self, claim: Claim) -> None:
        with self._lock:
            self._left += claim.taken
            claim.taken, claim.released = 0, True


class Claim:
    """Grows by `add`; all of it is given back at `release`, or at the end of the context, and then it grows no more."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.added = self.taken = 0
        self.released = False

    def add(self, count: int) -> None:
        """Raises Crowded, and then has taken nothing more."""
        self._budget.grow(self, count)

    def release(self) -> None:
        self._budget.release(self)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
