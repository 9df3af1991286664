"""Where a run keeps what it has: a folder of its own, block by block, so that it can be taken up again."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.failures import LoadFailed
from loadtest.plan import Plan

RESULT, PLAN = "result.json", "plan.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    path: Path

    @property
    def blocks(self) -> Path:
        return self.path / "blocks"

    @property
    def payloads(self) -> Path:
        return self.path / "payloads"

    def write(self, name: str, content: Any) -> Path:
        """All of the file or nothing of it. Raises LoadFailed."""
        path = self.path / name
        beside = path.with_name(f".{name}.new")
        try:
            beside.write_text(json.dumps(content, indent=1) + "\n")
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise LoadFailed(f"cannot write {path}: {error.strerror}") from None
        return path

    def read(self, name: str) -> Any:
        """None where there is none."""
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    def remove_if_empty(self) -> None:
        """Where not one block has been finished there is nothing to resume."""
        if not any("." not in path.stem for path in self.blocks.glob("*.json")):
            shutil.rmtree(self.path, ignore_errors=True)

    def reserve(self, size: int) -> None:
        """Raises LoadFailed where the disk has not that much: before any load is sent."""
        file = self.path / ".reserved"
        try:
            with file.open("wb") as opened:
                os.posix_fallocate(opened.fileno(), 0, size)
        except OSError as error:
            raise LoadFailed(
                f"{self.path} has no room for the {size / 1e6:.0f} MB that this run may need ({error.strerror}); "
                "free some, or give another folder with --out"
            ) from None
        finally:
            file.unlink(missing_ok=True)


def create(root: Path, plan: Plan) -> RunFolder:
    """A new folder under ``root``. Raises LoadFailed where it cannot be made."""
    path = root / f"{plan.model}-{time.strftime('%Y%m%d-%H%M%S')}-{plan.digest}"
    try:
        for folder in (path, path / "blocks", path / "payloads"):
            folder.mkdir(parents=True)
    except OSError as error:
        raise LoadFailed(f"cannot make {path}: {error.strerror}; give another folder with --out") from None
    return RunFolder(path)


def unfinished(root: Path, plan: Plan) -> RunFolder:
    """The latest interrupted run of the same plan. Raises LoadFailed where there is none."""
    for folder in _of_plan(root, plan):
        if folder.read(RESULT) is None and folder.read(PLAN) is not None:
            return folder
    raise LoadFailed(f"nothing to resume in {root}: no interrupted run of {plan.model} with these options")


def finished_before(root: Path, plan: Plan, *, valid: bool = False) -> dict[str, Any] | None:
    """The latest result of the same plan; with ``valid`` the latest that ended with verdicts."""
    for folder in _of_plan(root, plan):
        if (result := folder.read(RESULT)) and (not valid or result["validity"]["holds"]):
            return dict(result)
    return None


def _of_plan(root: Path, plan: Plan) -> list[RunFolder]:
    return [RunFolder(path) for path in sorted(root.glob(f"{plan.model}-*-{plan.digest}"), reverse=True)]


def is_resumable(root: Path, plan: Plan) -> bool:
    try:
        unfinished(root, plan)
    except LoadFailed:
        return False
    return True
