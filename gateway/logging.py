"""Structured logs: one JSON object a line on standard error, one access line a request on standard output.

Lines are written by a thread of their own, from a queue of bounded length: whoever is to read a pipe may not read it,
and a disk may be slow. Neither may hold up a request.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import orjson

#: Lines that wait to be written. A second at full load has about as many.
_MAX_LINES = 10_000
#: Access lines are gathered for this long: a write for each would cost more than the line.
GATHER_SECONDS = 0.2
#: At the end, how long a reader that does not read is waited for.
_LAST_LINES_SECONDS = 2.0


Line = bytes | Callable[[], bytes]


class LineWriter:
    """Writes lines to a stream from a thread. `put` never waits; what the queue cannot take is counted and reported.

    ``gather_seconds`` passes between two writes; 0 writes each line at once. ``on_dropped`` is called for each line
    that the queue does not take, ``on_lost`` with the number of those that could not be written. The descriptor is the
    writer's own: a thread that hangs in a write holds no lock that the interpreter needs to end.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        gather_seconds: float = GATHER_SECONDS,
        max_lines: int = _MAX_LINES,
        on_dropped: Callable[[], None] = lambda: None,
        on_lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._on_lost = on_lost
        self._descriptor = os.dup(stream.fileno())
        self._gather_seconds = gather_seconds
        self._max_lines = max_lines
        self._on_dropped = on_dropped
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._waiting = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="log", daemon=True)
        self._thread.start()

    def put(self, line: Line) -> bool:
        """False where the line is dropped. It ends with a line end; a function is called for it by the thread."""
        if len(self._lines) >= self._max_lines:
            self._dropped += 1
            self._on_dropped()
            return False
        self._lines.append(line)
        if not self._waiting.is_set():
            self._waiting.set()
        return True

    def close(self, seconds: float = _LAST_LINES_SECONDS) -> None:
        """Writes what waits, if that goes within ``seconds``. Nothing is written after it; it may be called twice."""
        self._stop.set()
        self._waiting.set()
        self._thread.join(seconds)

    def _keep_writing(self) -> None:
        while not self._stop.is_set():
            self._waiting.wait()
            self._stop.wait(self._gather_seconds)
            self._waiting.clear()  # before the lines are taken: one that comes now is seen in the next turn
            self._flush()
        self._flush()
        os.close(self._descriptor)

    def _flush(self) -> None:
        waiting = [self._lines.popleft() for _ in range(len(self._lines))]
        lines = [line if isinstance(line, bytes) else line() for line in waiting]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(orjson.dumps({"dropped_lines": dropped}, option=orjson.OPT_APPEND_NEWLINE))
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            # The reader is gone, or the disk is full. There is nowhere to tell it.
            self._on_lost(len(lines))


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


class QueuedHandler(logging.Handler):
    """Hands each record's line to a `LineWriter`."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode() + b"\n"
        except Exception:
            self.handleError(record)
        else:
            self._writer.put(line)

    def close(self) -> None:
        """Called at the interpreter's end, by `logging.shutdown`."""
        self._writer.close()
        super().close()


def configure(level: str) -> None:
    """Sends every logger of the process through `JsonFormatter`."""
    handler = QueuedHandler(LineWriter(sys.stderr.buffer, gather_seconds=0.0))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class AccessLog(Protocol):
    def write(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NoAccessLog:
    def write(self, line: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class QueuedAccessLog:
    """Access lines, through a writer that others may use too and that closes with the first of them."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def write(self, line: dict[str, Any]) -> None:
        self._writer.put(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._writer.close()
