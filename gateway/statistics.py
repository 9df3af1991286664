"""Counts and durations per version of a model, as Triton's statistics extension tells them.

Source: Triton ``docs/protocol/extension_statistics.md``. Kept for the protocol's clients; operators read the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import time

#: Sizes of batches that are told apart; a client that sends every size there is gets no more memory than this.
_MAX_BATCH_SIZES = 128


@dataclass(slots=True)
class Duration:
    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class Compute:
    """Where a request's time went: decoding, the server behind, encoding."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, timings: Mapping[str, float]) -> None:
        self.input.add(timings.get("decode", 0.0))
        self.infer.add(timings.get("backend", 0.0))
        self.output.add(timings.get("encode", 0.0))


@dataclass(slots=True)
class Counts:
    """Of one version. ``inferences`` counts rows, ``last_milliseconds`` is of the epoch, 0 for never."""

    last_milliseconds: int = 0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    compute: Compute = field(default_factory=Compute)
    batches: dict[int, Compute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """A version of a variant of a model; ``version`` is its text."""

    model: str
    variant: str
    version: str


class Statistics:
    """Filled by the observer at the end of each request that reached a version, read by the v2 fronts."""

    def __init__(self) -> None:
        self._counts: dict[Served, Counts] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._counts)

    def of(self, served: Served) -> Counts:
        return self._counts.get(served) or Counts()

    def record(
        self,
        served: Served,
        *,
        ok: bool,
        seconds: float,
        rows: int,
        execution_rows: int,
        timings: Mapping[str, float],
    ) -> None:
        """``execution_rows``: of the model's run that is counted with this request, 0 where another one counts it."""
        counts = self._counts.setdefault(served, Counts())
        if not ok:
            counts.fail.add(seconds)
            return
        counts.last_milliseconds = int(time() * 1e3)
        counts.inferences += rows
        counts.success.add(seconds)
        counts.queue.add(timings.get("queue", 0.0))
        if "cache_hit" in timings:
            counts.cache_hit.add(timings["cache_hit"])
            return
        if "cache_miss" in timings:
            counts.cache_miss.add(timings["cache_miss"])
        counts.compute.add(timings)
        if not execution_rows and rows:
            return
        counts.executions += 1
        batch = counts.batches.get(execution_rows)
        if batch is None and len(counts.batches) < _MAX_BATCH_SIZES:
            batch = counts.batches[execution_rows] = Compute()
        if batch is not None:
            batch.add(timings)
