"""What the load generator is told and what it answers. Both travel pickled over its standard streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: How an answer's body holds its only output; `checks.values` reads each.
Answer = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Requests to one server for ``seconds``: each of ``connections`` carries ``streams`` requests at a time.

    A connection sends its next request when an answer has come. ``bodies`` are sent in turn, and ``expected`` are the
    right answers to them, as float32 bytes. ``wire`` is ``http`` (one request at a time) or ``grpc``; a gRPC body is
    the message alone. ``headers`` are lines that end in CRLF.
    """

    wire: str
    host: str
    port: int
    path: str
    bodies: Sequence[bytes]
    expected: Sequence[bytes]
    answer: Answer
    headers: str = ""
    connections: int = 1
    streams: int = 1
    seconds: float = 2.0
    warm_seconds: float = 0.3
    #: Every so many answers one is decoded and compared.
    check_every: int = 16
    tolerance: float = 1e-5


@dataclass(frozen=True, slots=True)
class Result:
    """Of the measured window. ``wrong`` are checked answers that differ, ``failure`` is the first thing that failed."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int
    wrong: int
    checked: int
    failure: str
    #: Processor time that the generator itself took, to tell what was left for the servers.
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def fault(self) -> str:
        """Empty where every answer was right."""
        if self.errors or self.wrong:
            return f"{self.errors} errors, {self.wrong} of {self.checked} checked answers wrong: {self.failure}"
        return "" if self.requests and self.checked else "no answer was checked"
