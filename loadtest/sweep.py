"""How throughput and latency change with callers, rows and bytes. Closed loop, with Little's law as a self-check.

A sweep shows the shape; the verdict comes from the paired blocks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from gateway.types import Tensor
from loadtest import blocks
from loadtest.analysis.arrivals import SECOND
from loadtest.analysis.load import LITTLE_TOLERANCE, little_error
from loadtest.analysis.percentiles import percentile
from loadtest.compare import Comparison
from loadtest.failures import LoadFailed
from loadtest.fronts import FRONTS, Front
from loadtest.payloads import requests, rows
from loadtest.progress import Progress

CALLERS = (1, 2, 4, 8, 16, 32, 64, 128)
ROWS = (1, 2, 4, 8, 16, 32)
SIZES = (1 << 10, 32 << 10, 600 << 10, 4 << 20)
"""Bytes of a request: a row of features, a small picture, 224 x 224 x 3 floats, and a batch of these."""
CALLERS_OF_SIZES = 4
MOST_ROWS = 4096
SECONDS, SETTLE_SECONDS = 1.5, 0.4
PAYLOADS = 4


def run(comparison: Comparison, console: Console) -> dict[str, Any]:
    """Of the plan's first front. Raises LoadFailed."""
    front = FRONTS[comparison.plan.fronts[0]]
    steps = 2 * (len(CALLERS) + len(ROWS) + len(SIZES))
    with Progress(console, steps * (SECONDS + SETTLE_SECONDS + 0.5)) as progress:
        sweep = _Sweep(comparison, front, progress)
        return {
            "front": front.name,
            "callers": [point for callers in CALLERS for point in sweep.points(1, callers)],
            "rows": [point for count in ROWS for point in sweep.points(count, CALLERS_OF_SIZES)],
            "bytes": [point for count in sweep.rows_of_sizes() for point in sweep.points(count, CALLERS_OF_SIZES)],
        }


class _Sweep:
    def __init__(self, comparison: Comparison, front: Front, progress: Progress) -> None:
        self._comparison = comparison
        self._front = front
        self._progress = progress
        (self._one,) = self._asked(1)[:1]

    def _asked(self, batch: int) -> list[tuple[Tensor, ...]]:
        model = self._comparison.model
        return requests(model.inputs, rows(model, PAYLOADS * batch, self._comparison.plan.seed), batch)

    def rows_of_sizes(self) -> list[int]:
        """Rows that make a request at least so big; sizes that would take too many are left out."""
        model = self._comparison.model
        two, one = (len(self._front.encode(self._comparison.signature, self._asked(count)[0]).body) for count in (2, 1))
        row = max(1, two - one)
        counts = [-(-max(1, size - (one - row)) // row) for size in SIZES]
        if model.inputs[0].shape[:1] != (-1,):
            return [1]
        return sorted({count for count in counts if count <= MOST_ROWS})

    def points(self, batch: int, callers: int) -> list[dict[str, Any]]:
        """Both variants, one after the other."""
        legs = self._comparison.through_gateway(self._front, self._asked(batch))
        found = []
        for leg in legs:
            text = f"sweep: {leg.variant}, {callers} callers, {batch} rows"
            self._progress.begin(text, SECONDS + SETTLE_SECONDS + 0.5)
            job = self._comparison.job(leg, pair=0, seconds=SECONDS, name="sweep")
            try:
                finished = blocks.run(
                    replace(job, callers=callers), name=text, workers=1, settle_seconds=SETTLE_SECONDS
                )
            except LoadFailed as error:
                self._progress.say(f"{text}: {error}")
                continue
            found.append({"variant": leg.variant, "callers": callers, "rows": batch, **point(finished, callers, leg)})
        return found


def point(finished: blocks.Finished, callers: int, leg: blocks.Leg) -> dict[str, Any]:
    block = finished.block
    # While all callers are at it: after the end fewer and fewer are.
    begin = int(block.intended.min())
    end = begin + round((1 - blocks.WARM_SHARE) * SECONDS * SECOND)
    latencies = block.latencies_ms(10)
    inside = (block.ended >= begin) & (block.ended < end)
    per_second = int(inside.sum()) / ((end - begin) / SECOND)
    error = little_error(callers, per_second, float(latencies[inside].mean()) / 1e3) if inside.any() else 1.0
    return {
        "per_second": per_second,
        "p50_ms": percentile(latencies, 50),
        "p95_ms": percentile(latencies, 95),
        "failed": int(block.failed.sum()),
        "bytes": _median_bytes([len(call.body) for call in leg.calls]),
        "little_error": error,
        "little_holds": error <= LITTLE_TOLERANCE,
    }


def _median_bytes(sizes: Sequence[int]) -> int:
    return sorted(sizes)[len(sizes) // 2]
