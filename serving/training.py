"""Trains what is missing, as a process of its own: both frameworks' memory goes with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from models.artifacts import TO_REPACK, Artifact, Store
from models.spec import ModelSpec
from serving.children import TETHER, kill_session
from serving.failures import Failure
from serving.stops import Interrupted, Stops

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0


def ensure_trained(
    artifacts: Path, specs: Sequence[ModelSpec], *, may_train: bool, console: Console, stops: Stops
) -> None:
    """Make the artifacts of `specs` that are not there; no `specs`, none. Raises Failure, Interrupted."""
    names = [spec.name for spec in specs]
    missing = _missing(artifacts, names)
    if not missing:
        return
    list_of_missing = ", ".join(f"{artifact.name} {artifact.version} ({artifact.framework})" for artifact in missing)
    if not may_train:
        raise Failure(f"not in {artifacts}, or outdated: {list_of_missing}. Leave out --no-train to make them.")
    console.print(f"Training, once: {', '.join(sorted({artifact.name for artifact in missing}))}", soft_wrap=True)
    _train([*names, "--out", str(artifacts)], stops)
    if _missing(artifacts, names):
        raise Failure("the training ended well and yet models are missing; `python -m models list` says which")


def _missing(artifacts: Path, names: Sequence[str]) -> list[Artifact]:
    """What only training makes. What a repack makes ready, `refresh` has done, or does in the copy that is served."""
    store = Store(artifacts)
    return [artifact for artifact in store.missing(names) if store.state(artifact) not in TO_REPACK]


def _train(arguments: Sequence[str], stops: Stops) -> None:
    command = [sys.executable, "-ISE", str(TETHER), str(os.getpid()), sys.executable, "-m", "models", "train"]
    process = subprocess.Popen([*command, *arguments], start_new_session=True)  # noqa: S603  (our own command line)
    try:
        while process.poll() is None and not stops.asked:
            stops.pause(POLL_SECONDS)
        if process.poll() is None:
            _interrupt(process)
            raise Interrupted
    finally:
        kill_session(process.pid)
    if process.returncode:
        raise Failure(f"the training failed with exit code {process.returncode}; its own lines above say why")


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # keeps what it has finished
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
