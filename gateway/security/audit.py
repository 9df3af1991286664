"""One line for each decision: who asked for what, and what was decided. No payload, no header, no secret.

Lines are made and written by the thread of a `LineWriter`, so that a slow disk holds nobody up; what its queue cannot
take is counted. JSON escapes line ends, and whatever clients wrote is cut and made ASCII.
"""

from __future__ import annotations

from functools import partial
from time import time
from typing import Protocol

import orjson
from prometheus_client import CollectorRegistry, Counter

from gateway.logging import LineWriter
from gateway.security.access import ALLOWED, NOT_GRANTED, OVER_QUOTA, UNAUTHENTICATED, Access
from gateway.security.grants import Verb

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
    def __init__(self, writer: LineWriter, *, dropped: Counter) -> None:
        self._writer = writer
        self._dropped = dropped

    def write(self, access: Access, request: Seen, seconds: float) -> None:
        """Takes the line's time now. Never waits. Neither the access nor the request changes any more."""
        if not self._writer.put(partial(_line, time(), access, request, seconds)):
            self._dropped.inc()

    def close(self) -> None:
        """Writes what waits, if that goes within a few seconds."""
        self._writer.close()


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
