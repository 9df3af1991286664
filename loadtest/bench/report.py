"""The table of a run, and the file that keeps it."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.bench.measure import Options, Outcome, Target


@dataclass(frozen=True, slots=True)
class Line:
    """A measured row."""

    name: str
    title: str
    target: Target
    outcome: Outcome

    @property
    def met(self) -> bool:
        return not self.outcome.faults and self.target.met(self.outcome.number)


def show(console: Console, lines: Sequence[Line]) -> None:
    table = Table(title="Benchmark: medians, and the least and most of the rounds")
    for name in ("row", "what", "target", "measured", "spread", "met", "medians of the legs"):
        table.add_column(name, justify="right" if name in ("target", "measured", "spread") else "left")
    for line in lines:
        outcome = line.outcome
        measured = "-" if math.isnan(outcome.number) else f"{outcome.number:.2f}{outcome.unit}"
        spread = f"{min(outcome.numbers):.2f} .. {max(outcome.numbers):.2f}" if len(outcome.numbers) > 1 else ""
        met = "[green]yes[/]" if line.met else "[red]no[/]"
        table.add_row(line.name, line.title, str(line.target), measured, spread, met, outcome.detail)
    console.print(table)
    for line in lines:
        for fault in line.outcome.faults[:3]:
            console.print(f"{line.name}: {fault}", style="red", highlight=False, markup=False)


def keep(path: Path, lines: Sequence[Line], options: Options, load_before: Sequence[float]) -> None:
    """Everything that was measured, with what is needed to judge it: the machine, its other load, the commit."""
    document = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "commit": _commit(),
        "load_before": list(load_before),
        "load_after": list(os.getloadavg()),
        "options": {"rounds": options.rounds, "seconds": options.seconds, "warm_seconds": options.warm_seconds},
        "rows": [_row(line) for line in lines],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))


def _row(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "what": line.title,
        "target": str(line.target),
        "measured": line.outcome.number,
        "unit": line.outcome.unit.strip(),
        "rounds": list(line.outcome.numbers),
        "met": line.met,
        "detail": line.outcome.detail,
        "faults": list(line.outcome.faults),
        "legs": dict(line.outcome.raw),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
