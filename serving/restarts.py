"""When a server that died may start again. Decides only; time comes in as `now`, in seconds."""

from __future__ import annotations

LONGEST_DELAY_SECONDS = 30.0
WINDOW_SECONDS = 60.0
MOST_CRASHES = 5


class Restarts:
    """One server's crashes.

    The delay doubles from 1 s to 30 s and starts again at 1 s after a minute without a crash. Five crashes within a
    minute are too many: what dies so often needs a person.
    """

    def __init__(self) -> None:
        self._crashes: list[float] = []
        self._in_a_row = 0

    def delay_seconds(self, now: float) -> float | None:
        """The server has crashed at `now`: how long to wait before it starts again, None to give up."""
        if self._crashes and now - self._crashes[-1] >= WINDOW_SECONDS:
            self._in_a_row = 0
        self._in_a_row += 1
        self._crashes = [moment for moment in self._crashes if now - moment < WINDOW_SECONDS] + [now]
        if len(self._crashes) >= MOST_CRASHES:
            return None
        return float(min(2.0 ** (self._in_a_row - 1), LONGEST_DELAY_SECONDS))
