"""What a calibration found, kept beside the runs: a comparison wants one of this machine, and not an old one."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.calibration import checks
from loadtest.calibration.checks import Check
from loadtest.calibration.instrument import instrument
from loadtest.configuration import machine

NAME = "calibration.json"
STALE_SECONDS = 7 * 86_400
LEAST_HEADROOM = 0.8


@dataclass(frozen=True, slots=True)
class Calibration:
    machine: str
    python: str
    at: float
    full: bool
    checks: tuple[Check, ...]
    figures: dict[str, float]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def most_per_second(self, transport: str) -> float:
        """The rate that may be asked of one generator: 80 % of what it made against a null server."""
        return LEAST_HEADROOM * self.figures[f"most_{transport}_per_second"]

    def problem(self, now: float) -> str:
        """Why it does not count here and now; empty where it does."""
        if not self.passed:
            return "; ".join(f"{check.name}: {check.text}" for check in self.checks if not check.passed)
        if (self.machine, self.python) != (machine(), platform.python_version()):
            return f"it is of {self.machine}, Python {self.python}"
        return f"it is {(now - self.at) / 86_400:.0f} days old" if now - self.at > STALE_SECONDS else ""


def calibrate(tell: Callable[[str], None], *, full: bool, closed_loop: bool = False) -> Calibration:
    """``closed_loop`` breaks the schedule on purpose: the stall must then be missed. Raises LoadFailed."""
    found: list[Check] = []
    with TemporaryDirectory(prefix="duet-calibration-") as folder, instrument(Path(folder)) as known:
        tell("null server")
        figures: dict[str, float] = {}
        found += checks.attempted(lambda: checks.null(known, figures))
        floor = figures["null_p50_ms"]
        tell("known delay")
        found += checks.attempted(lambda: checks.known_delay(known, closed_loop=closed_loop))
        tell("known stall")
        found += checks.attempted(lambda: checks.known_stall(known, floor, closed_loop=closed_loop))
        if full:
            found += checks.same_twice(known, tell)
            found += checks.five_percent(known, tell)
    return Calibration(machine(), platform.python_version(), time.time(), full, tuple(found), figures)


def write(calibration: Calibration, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{NAME}.new"
    beside.write_text(json.dumps(asdict(calibration), indent=1) + "\n")
    beside.replace(folder / NAME)


def read(folder: Path) -> Calibration | None:
    try:
        stored = json.loads((folder / NAME).read_text())
        of_checks: Sequence[dict[str, object]] = stored.pop("checks")
        return Calibration(**stored, checks=tuple(Check(**check) for check in of_checks))  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError):
        return None
