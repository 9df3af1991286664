"""What is seen of one request, from its arrival to its last byte: for its access line and its metrics."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from time import perf_counter, time

from gateway.errors import DuetError
from gateway.logging import AccessLog
from gateway.metrics import UNKNOWN, Metrics
from gateway.security.access import Access, Notes
from gateway.security.audit import Decisions
from gateway.statistics import Served, Statistics
from gateway.types import InferRequest, InferResponse

#: What a client may choose as its request's id; anything else is replaced, so that no log line can be forged.
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")
#: W3C Trace Context, version 00: trace id, parent id, flags; all zeros is no id.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


@dataclass(slots=True)
class Observation:
    """Filled by those who answer. ``front`` is set by an inference front, and makes the request count in metrics."""

    id: str
    traceparent: str
    started: float
    front: str = ""
    model: str = ""
    variant: str = ""
    version: str = ""
    code: str = "OK"
    rows: int = 0
    execution_rows: int = 0
    timings: dict[str, float] = field(default_factory=dict)
    #: Who was let in and what was decided; None where nobody is asked.
    access: Access | None = None
    #: More headers (or trailing metadata) of the answer.
    notes: Notes = ()

    def answered(self, request: InferRequest, response: InferResponse) -> None:
        self.model, self.variant, self.version = response.model, response.variant, str(response.version)
        self.rows = request.rows if response.rows is None else response.rows
        self.execution_rows = self.rows if response.execution_rows is None else response.execution_rows
        self.timings.update(response.timings)

    def failed(self, error: DuetError) -> None:
        self.code = error.code.name
        if error.target is not None:
            self.model, self.variant = error.target.model, error.target.variant
            self.version = "" if error.target.version is None else str(error.target.version)

    def server_timing(self) -> str:
        """The value of a Server-Timing header: milliseconds by part, and in all until now."""
        parts = [f"{name};dur={seconds * 1e3:.3f}" for name, seconds in self.timings.items()]
        parts.append(f"total;dur={(perf_counter() - self.started) * 1e3:.3f}")
        return ", ".join(parts)


class Observer:
    """Begins observations, and turns finished ones into metrics, statistics and access lines."""

    def __init__(self, *, metrics: Metrics, access_log: AccessLog, decisions: Decisions | None = None) -> None:
        self.metrics = metrics
        self.statistics = Statistics()
        self._access_log = access_log
        self._decisions = decisions

    def begin(self, request_id: str | None, traceparent: str | None) -> Observation:
        """Takes the client's id and trace where they are well formed, and makes new ones otherwise."""
        if request_id is None or not _ID.fullmatch(request_id):
            request_id = os.urandom(16).hex()
        return Observation(request_id, _child_of(traceparent), perf_counter())

    def finish(self, seen: Observation, *, method: str, path: str, status: int) -> None:
        seconds = perf_counter() - seen.started
        if seen.front:
            served = (seen.model or UNKNOWN, seen.variant, seen.version, seen.front)
            self.metrics.requests(*served, seen.code).inc()
            self.metrics.request_seconds(*served).observe(seconds)
            if seen.rows:
                self.metrics.rows(*served).inc(seen.rows)
            if seen.version:
                known = Served(seen.model, seen.variant, seen.version)
                ok = seen.code == "OK"
                self.statistics.record(
                    known,
                    ok=ok,
                    seconds=seconds,
                    rows=seen.rows,
                    execution_rows=seen.execution_rows,
                    timings=seen.timings,
                )
        if self._decisions is not None and seen.access is not None:
            self._decisions.note(seen.access, seen, seconds)
        self._access_log.write(
            {
                "time": round(time(), 3),
                "request_id": seen.id,
                "trace_id": seen.traceparent[3:35],
                "method": method,
                "path": path,
                "status": status,
                "ms": round(seconds * 1e3, 3),
                "front": seen.front,
                "model": seen.model,
                "variant": seen.variant,
                "version": seen.version,
                "rows": seen.rows,
            }
        )


def _child_of(traceparent: str | None) -> str:
    """A new span of the client's trace, or of a new trace that nobody samples."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    trace, flags = match.groups() if match else (os.urandom(16).hex(), "00")
    return f"00-{trace}-{os.urandom(8).hex()}-{flags}"
