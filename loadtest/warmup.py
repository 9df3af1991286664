"""Until a leg is steady: waiting callers, windows, and once more where the last three do not agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from loadtest import blocks
from loadtest.analysis.arrivals import SECOND
from loadtest.analysis.percentiles import percentile
from loadtest.analysis.validity import is_steady
from loadtest.generator.job import Job

CALLERS = 4
WINDOWS = 6


@dataclass(frozen=True, slots=True)
class Warmed:
    """``per_second`` is what waiting callers got in the last three windows."""

    steady: bool
    per_second: float
    p50_ms: float
    text: str


def warm_up(job: Job, *, name: str, tick: Callable[[], None]) -> Warmed:
    """Extended once where it is not steady. Raises LoadFailed."""
    first = _once(job, name, tick)
    return first if first.steady else _once(job, name, tick)


def _once(job: Job, name: str, tick: Callable[[], None]) -> Warmed:
    finished = blocks.run(replace(job, callers=CALLERS), name=name, workers=1, settle_seconds=0.0, tick=tick)
    block = finished.block
    seconds = (block.ended - block.ended.min()) / SECOND
    size = float(seconds.max()) / WINDOWS
    last = range(WINDOWS // 2, WINDOWS)
    windows = [
        block.latencies_ms(job.timeout_seconds)[(seconds >= n * size) & (seconds < (n + 1) * size)] for n in last
    ]
    rates = [len(window) / size for window in windows]
    medians = [percentile(window, 50) if len(window) else 0.0 for window in windows]
    shown = ", ".join(f"{rate:.0f}/s at {median:.2f} ms" for rate, median in zip(rates, medians, strict=True))
    return Warmed(
        steady=is_steady(rates) and is_steady(medians),
        per_second=float(np.mean(rates)),
        p50_ms=float(np.mean(medians)),
        text=f"the last three windows are {shown}; they must lie within 5 %",
    )
