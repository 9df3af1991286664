"""Tiny real programs for the supervisor to keep, and ways to wait for what they do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from serving.children import Launch

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
CRASH = "import sys; print('no such model: x', flush=True); sys.exit(3)"
# A server with a worker, as TorchServe has them: the worker's pid is the second word of the log.
PARENT = (
    f"import subprocess, sys; w = subprocess.Popen([sys.executable, '-c', {DEAF!r}]); print('worker', w.pid); {SLEEP}"
)


def launch(folder: Path, program: str, *, name: str = "server", grace_seconds: float = 5.0) -> Launch:
    return Launch(
        name=name,
        command=(sys.executable, "-uc", program),
        folder=folder,
        log=folder / f"{name}.log",
        grace_seconds=grace_seconds,
    )


def wait_until(true: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def worker_of(log: Path) -> int:
    wait_until(lambda: log.read_text().count("up") == 2)
    words = log.read_text().split()
    return int(words[words.index("worker") + 1])
