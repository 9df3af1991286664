"""Where a long run is and how long it still takes: one line that is rewritten on a terminal, else a line a step."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.status import Status


class Progress:
    """``total_seconds`` is what the plan takes; what was done before a resumed run is not counted."""

    def __init__(self, console: Console, total_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._left = total_seconds
        self._step_seconds = 0.0
        self._step_begun = now()
        self._text = ""
        self._status: Status | None = console.status("", spinner="line") if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def begin(self, text: str, seconds: float = 0.0) -> None:
        """The step before is over; this one takes about ``seconds``, which are part of the total."""
        self._left = max(0.0, self._left - self._step_seconds)
        self._text, self._step_seconds, self._step_begun = text, seconds, self._now()
        if self._status is None:
            self._console.print(f"{text}, {clock(self._left)} left", soft_wrap=True, highlight=False, markup=False)
        self.tick()

    def skip(self, seconds: float) -> None:
        self._left = max(0.0, self._left - seconds)

    def tick(self) -> None:
        if self._status is not None:
            gone = min(self._step_seconds, self._now() - self._step_begun)
            self._status.update(f"{self._text}, {clock(max(0.0, self._left - gone))} left")

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
