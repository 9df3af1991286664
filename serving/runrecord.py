"""run.json: which processes this run has started, so that the next run can end what a killed one left behind.

{"supervisor": {"name": "serving up", "pid": 41, "started": 1763697600.2}, "children": [{...}, ...]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.children import Child, kill_session, start_time
from serving.failures import Failure

# psutil counts from the boot time, which moves a little when the clock is set.
SAME_START_SECONDS = 1.0


class AlreadyRunning(Failure):
    """Another supervisor is alive in this folder."""


class RunRecord:
    def __init__(self, path: Path) -> None:
        self._path = path

    def claim(self) -> list[str]:
        """End what an earlier run left and take its place. Returns the ended servers' names; raises AlreadyRunning."""
        record = self._read()
        supervisor = record.get("supervisor")
        if supervisor and _is_alive(supervisor):
            raise AlreadyRunning(
                f"another `serving up` (pid {supervisor['pid']}) runs in {self._path.parent}; "
                "stop it, or choose another folder with --run-dir DIR and other ports with --port-offset N"
            )
        # The leader must be the very process: without it, its session's number may be somebody else's by now.
        orphans = [child for child in record.get("children", []) if _is_alive(child)]
        for orphan in orphans:
            kill_session(orphan["pid"])
        self.write(())
        return [orphan["name"] for orphan in orphans]

    def write(self, children: Sequence[Child]) -> None:
        """Replace the record; a reader sees the old one or the new one."""
        supervisor = {"name": "serving up", "pid": os.getpid(), "started": start_time(os.getpid())}
        entries = [{"name": child.name, "pid": child.pid, "started": child.started} for child in children]
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps({"supervisor": supervisor, "children": entries}, indent=2) + "\n")
        beside.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _is_alive(entry: dict[str, Any]) -> bool:
    """True if the recorded process itself lives, not another one that got its number."""
    started = start_time(entry["pid"])
    return started > 0 and abs(started - entry["started"]) < SAME_START_SECONDS
