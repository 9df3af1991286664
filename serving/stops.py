"""Ctrl-C and SIGTERM, noted for the loop to find. A second one hurries."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# One signal may come twice at once, to the process and to its group: that is no second wish.
ECHO_SECONDS = 0.5


class Interrupted(Exception):
    """Asked to stop while starting."""


class Stops:
    def __init__(self) -> None:
        self._first_at: float | None = None
        self._hurry = False
        self._asked = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """For the main thread, which Python lets install signal handlers."""
        before = {number: signal.signal(number, self._note) for number in _signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def hurry(self) -> bool:
        return self._hurry

    def pause(self, seconds: float) -> None:
        """Sleep, but not past the first signal."""
        self._asked.wait(seconds)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        elif now - self._first_at > ECHO_SECONDS:
            self._hurry = True
        self._asked.set()


def _signals() -> tuple[signal.Signals, ...]:
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP
