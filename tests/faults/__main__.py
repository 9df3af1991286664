"""``python -m tests.faults``: R1 to R23, their table, and a page of what was seen. ``ROUNDS=5`` runs each five times.

Ends with 1 where a figure does not hold. ``SOAK=600`` makes the soak ten minutes long; ``SCALE=1`` spends all the
seconds and requests that the table of faults names, of which a tenth is spent by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults import report
from tests.faults.findings import RECORDS, SCALE
from tests.faults.without import WITHOUT

FOLDER = Path(".duet/faults")


def main(arguments: list[str]) -> int:
    rounds, records = int(os.environ.get("ROUNDS", "1")), []
    begun, failed = time.monotonic(), False
    for _ in range(rounds):
        found, code = once(arguments)
        records += found
        failed = failed or code != 0
    print(report.table(records))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "faults.json").write_text(json.dumps(records, indent=1))
    (FOLDER / "faults.html").write_text(report.page(records, rounds=rounds))
    if SCALE < 1:
        print(
            f"Load before and after a fault: {30 * SCALE:.0f} and {60 * SCALE:.0f} s in place of 30 and 60, and "
            f"{round(100_000 * SCALE):,} clients that hang up in place of 100,000, on {os.cpu_count()} processors; "
            "SCALE=1 spends all of it"
        )
    if left := report.unjudged(records):
        print(f"{left} latencies were not judged: other programs took more than 15 % of the machine")
    numbers = {record["number"] for record in records}
    print(f"{len(numbers)} faults, {len(records)} runs, {time.monotonic() - begun:.0f} s; {FOLDER}/faults.html")
    return int(failed or not records)


def once(
    arguments: list[str], settings: dict[str, Any] | None = None, without: str = ""
) -> tuple[list[dict[str, Any]], int]:
    """One round: the records, and pytest's exit code. ``settings`` are laid over those of every gateway.

    ``without`` names a part that is taken away (`tests.faults.without`).
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "records"  # a line as each ends, for who breaks a round off
    path.write_text("")
    changed = {"DUET_FAULTS_SETTINGS": json.dumps(settings or {}), WITHOUT: without}
    environment = {**os.environ, RECORDS: str(path.absolute()), **changed}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=line"]
    selection = ["-m", "faults or not faults", "tests/faults", *arguments]
    done = subprocess.run([*command, *selection], env=environment, check=False)
    return [json.loads(line) for line in path.read_text().splitlines()], done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
