"""What a person has to do something about."""

from __future__ import annotations

from pathlib import Path


class Failure(Exception):
    """The text is a clear line (or a few, one per fault) that says what to do. `log` is where more stands."""

    def __init__(self, text: str, *, log: Path | None = None, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.log = log
        self.last_lines = last_lines
