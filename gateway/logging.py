"""Structured logs: one JSON object a line on standard error, one access line a request on standard output."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, BinaryIO, Protocol

import orjson

_FLUSH_SECONDS = 0.2
_MAX_LINES = 10_000


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure(level: str) -> None:
    """Sends every logger of the process through `JsonFormatter`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class AccessLog(Protocol):
    def write(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NoAccessLog:
    def write(self, line: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class BufferedAccessLog:
    """Lines are gathered and written a few times a second; above `_MAX_LINES` between two writes they are counted."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._dropped = 0
        self._flush_due: asyncio.TimerHandle | None = None

    def write(self, line: dict[str, Any]) -> None:
        if len(self._lines) >= _MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if self._flush_due is None:
            self._flush_due = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)

    def close(self) -> None:
        if self._flush_due is not None:
            self._flush_due.cancel()
        self._flush()

    def _flush(self) -> None:
        self._flush_due = None
        if self._dropped:
            self._lines.append(orjson.dumps({"dropped_lines": self._dropped}, option=orjson.OPT_APPEND_NEWLINE))
            self._dropped = 0
        self._stream.write(b"".join(self._lines))
        self._stream.flush()
        self._lines.clear()
