"""Two processes climb at the same time, each half of the targets; what they found comes back as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Found:
    """The worst of one target. ``stall_seconds`` is as the reference machine would take.

    With a ``failure``, the gateway's or the fuzzer's own, nothing was found: it is the error with its traceback.
    """

    stall_seconds: float = 0.0
    memory_share: float = 0.0
    lines: list[str] = field(default_factory=list)
    failure: str = ""


def climbed(
    names: Sequence[str], *, seed: int, messages: int = 0, seconds: float = 0.0, good: bool = False
) -> dict[str, Found]:
    """``good`` sends each target's message without a fault, and nothing else."""
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="duet-fuzz-") as folder:
        files = [Path(folder) / f"{half}.json" for half in range(2)]
        options = ["--seed", str(seed), "--messages", str(messages), "--seconds", str(seconds)]
        options += ["--good"] if good else []
        children = [_begun(names[half::2], file, options) for half, file in enumerate(files) if names[half::2]]
        for child in children:
            child.wait()
        for file in files[: len(children)]:
            assert file.exists(), "a process that climbed died; its traceback is above"
            found.update({name: Found(**entry) for name, entry in json.loads(file.read_text()).items()})
    return found


def _begun(names: Sequence[str], file: Path, options: list[str]) -> subprocess.Popen[bytes]:
    # From the root: a copy of the tree, in which a control is switched off, is fuzzed by itself.
    command = [sys.executable, "-m", "tests.security.fuzzing", "--exactly", *names, "--write", str(file), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
