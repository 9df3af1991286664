"""One line for each decision: who asked for what, and what was decided. No payload, no header, no secret.

Lines wait in a queue of bounded length for a thread that writes them, so that a slow disk holds nobody up; what the
queue cannot take is counted. JSON escapes line ends, and whatever clients wrote is cut and made ASCII.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import time
from typing import BinaryIO, Protocol

import orjson
from prometheus_client import CollectorRegistry, Counter

from gateway.security.access import ALLOWED, NOT_GRANTED, OVER_QUOTA, UNAUTHENTICATED, Access
from gateway.security.grants import Verb

log = logging.getLogger("duet.security")

_MAX_LINES = 10_000
_FLUSH_SECONDS = 0.2
_MAX_TEXT = 64
_VERBS = tuple(map(str, Verb))


class Seen(Protocol):
    """What is known of a request apart from the decision."""

    id: str
    front: str
    variant: str
    version: str
    code: str


class Audit(Protocol):
    def write(self, access: Access, request: Seen, seconds: float) -> None: ...

    def close(self) -> None: ...


class NoAudit:
    def write(self, access: Access, request: Seen, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


class QueuedAudit:
    """``stream`` is closed at the end where it is the audit's own."""

    def __init__(self, stream: BinaryIO, *, dropped: Counter, own: bool, max_lines: int = _MAX_LINES) -> None:
        self._stream = stream
        self._own = own
        self._max_lines = max_lines
        self._lines: deque[tuple[float, Access, Seen, float]] = deque()
        self._dropped = dropped
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="audit", daemon=True)
        self._thread.start()

    def write(self, access: Access, request: Seen, seconds: float) -> None:
        """Takes the line's time now. Never waits. Neither the access nor the request changes any more."""
        if len(self._lines) >= self._max_lines:
            self._dropped.inc()
            return
        self._lines.append((time(), access, request, seconds))

    def close(self) -> None:
        """Writes what waits, if that goes within a few seconds."""
        self._stop.set()
        self._thread.join(5)

    def _keep_writing(self) -> None:
        while not self._stop.wait(_FLUSH_SECONDS):
            self._flush()
        self._flush()
        if self._own:
            self._stream.close()

    def _flush(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if not lines:
            return
        try:
            self._stream.write(b"".join(_line(*line) for line in lines))
            self._stream.flush()
        except (OSError, ValueError):
            self._dropped.inc(len(lines))
            log.exception("%s audit lines could not be written", len(lines))


def _line(moment: float, access: Access, request: Seen, seconds: float) -> bytes:
    document = {
        "audit": access.verdict,
        "time": round(moment, 3),
        "request_id": request.id,
        "who": plain(access.identity.name),
        "id": plain(access.identity.id),
        "verb": _VERBS[access.verb],
        "model": plain(access.model),
        "front": request.front,
        "variant": request.variant,
        "version": request.version,
        "code": request.code,
        "elements": access.elements,
        "bytes_in": access.bytes_in,
        "bytes_out": access.bytes_out,
        "ms": round(seconds * 1e3, 3),
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


class Decisions:
    """What is kept of each decision: a count by verdict and means, and a line of the audit."""

    def __init__(self, audit: Audit, *, registry: CollectorRegistry) -> None:
        self._audit = audit
        decisions = Counter(
            "duet_access",
            "Requests by what was decided of them, and by what the caller showed.",
            ("verdict", "means"),
            registry=registry,
        )
        verdicts = (ALLOWED, UNAUTHENTICATED, NOT_GRANTED, OVER_QUOTA)
        means = ("none", "key", "token", "certificate")
        self._counts = {(v, m): decisions.labels(v, m) for v in verdicts for m in means}

    def note(self, access: Access, request: Seen, seconds: float) -> None:
        self._counts[access.verdict, access.identity.means].inc()
        self._audit.write(access, request, seconds)

    def close(self) -> None:
        self._audit.close()


def plain(text: str) -> str:
    """What a client wrote, as a log may show it.

    >>> plain("a\\u2028b")
    'a\\\\u2028b'
    """
    if text.isascii() and text.isprintable() and len(text) <= _MAX_TEXT:
        return text
    return text[:_MAX_TEXT].encode("unicode_escape").decode()
