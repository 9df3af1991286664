"""Two processes climb at the same time, each half of the targets; what they found comes back as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Found:
    """The worst of one target. ``stall_seconds`` is as the reference machine would take."""

    stall_seconds: float
    memory_share: float
    lines: list[str]


def climbed(names: Sequence[str], *, seed: int, messages: int = 0, seconds: float = 0.0) -> dict[str, Found]:
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="duet-fuzz-") as folder:
        files = [Path(folder) / f"{half}.json" for half in range(2)]
        options = ["--seed", str(seed), "--messages", str(messages), "--seconds", str(seconds)]
        children = [_begun(names[half::2], file, options) for half, file in enumerate(files) if names[half::2]]
        for child in children:
            assert child.wait() == 0
        for file in files[: len(children)]:
            found.update({name: Found(**entry) for name, entry in json.loads(file.read_text()).items()})
    return found


def _begun(names: Sequence[str], file: Path, options: list[str]) -> subprocess.Popen[bytes]:
    # From the root: a copy of the tree, in which a control is switched off, is fuzzed by itself.
    command = [sys.executable, "-m", "tests.security.fuzzing", "--exactly", *names, "--write", str(file), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
