"""What a fault test found: figures, whether each is as it must be, and a line for the table."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import uvloop

from tests.faults.load import Window
from tests.faults.rig import Rig

#: Where records go, a line of JSON each; `python -m tests.faults` sets it and reads them.
RECORDS = "DUET_FAULTS_RECORDS"
#: Of the seconds and requests of the table in which the figures are set (30 s before a fault, 60 after it, 100,000
#: clients that hang up), so many are spent: there are more than 70 runs. ``SCALE=1`` spends them all.
SCALE = float(os.environ.get("SCALE", "0.1"))
#: No scenario takes as long, unless it hangs.
_SECONDS = 240.0 + 400 * SCALE


#: Of all processors; above it, a latency says nothing of the gateway.
_MOST_OTHERS = 0.15


class Processors:
    """How much of the machine other programs took since this was made."""

    def __init__(self) -> None:
        self._at, self._busy, self._ours = monotonic(), *self._now()

    def others(self) -> float:
        busy, ours = self._now()
        capacity = (monotonic() - self._at) * (psutil.cpu_count() or 1)
        return max(0.0, ((busy - self._busy) - (ours - self._ours)) / capacity)

    def _now(self) -> tuple[float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted as user already
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ours = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return sum(times) - idle - guest, ours + sum(map(_used, psutil.Process().children(recursive=True)))


def _used(process: psutil.Process) -> float:
    """Seconds of a child that still runs, and of its own that have ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@dataclass
class Findings:
    """``must`` notes a figure and whether it holds; `judge` writes the record, and fails where one does not.

    A ``timed`` one that does not hold while other programs kept the machine busy is not judged, and the table says so.
    """

    number: str
    fault: str
    variant: str
    checks: list[dict[str, Any]] = field(default_factory=list)
    windows: dict[str, dict[str, Any]] = field(default_factory=dict)
    gauges: dict[str, Any] = field(default_factory=dict)
    wrong: int = 0
    begun: float = field(default_factory=monotonic)
    processors: Processors = field(default_factory=Processors)

    def must(self, what: str, seen: Any, holds: bool, *, timed: bool = False) -> None:
        self.checks.append({"what": what, "seen": _shown(seen), "holds": bool(holds), "timed": timed})

    def saw(self, name: str, window: Window) -> Window:
        """``name`` is before, during or after. A wrong answer is never right, whatever the test looks at."""
        self.windows[name] = {
            "sent": window.sent,
            "success": window.success,
            "p50_ms": round(window.quantile(0.5, "ok") * 1e3, 1),
            "p99_ms": round(window.quantile(0.99, "ok") * 1e3, 1),
            "late_ms": round(window.late * 1e3, 1),
            "outcomes": dict(window.outcomes),
            "texts": window.texts(),
        }
        self.wrong += window.outcomes["wrong"]
        return window

    def gauge(self, name: str, rig: Rig) -> None:
        self.gauges[name] = {"memory": rig.memory_bytes, "descriptors": rig.descriptors, "tasks": rig.tasks}

    def judge(self) -> None:
        self.must("wrong answers 0", self.wrong, not self.wrong)
        others = self.processors.others()
        for check in self.checks:
            if check["timed"] and not check["holds"] and others > _MOST_OTHERS:
                check["holds"] = None
        broken = [check for check in self.checks if check["holds"] is False]
        record = {
            "number": self.number,
            "fault": self.fault,
            "variant": self.variant,
            "passed": not broken,
            "others": round(others, 2),
            "seconds": round(monotonic() - self.begun, 1),
            "checks": self.checks,
            "windows": self.windows,
            "gauges": self.gauges,
        }
        if path := os.environ.get(RECORDS):
            with Path(path).open("a") as stream:
                stream.write(json.dumps(record) + "\n")
        assert not broken, f"{self.number} {self.variant}: {broken}\n{json.dumps(self.windows, indent=1)}"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(max(_SECONDS, 2 * float(os.environ.get("SOAK", 0)))):
            await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def steady(window: Window, before: Window, factor: float, *, share: float = 0.99) -> bool:
    """The quantile is at most ``factor`` times what it was, but for what this process itself was late."""
    allowed = factor * before.quantile(share, "ok") + max(window.late, before.late)
    return window.quantile(share, "ok") <= allowed


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return dict(value) if isinstance(value, dict) else value
