"""One server as a child process: in a session of its own, tied to this process, its output in a log file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

TETHER = Path(__file__).with_name("tether.py")
LAST_LINES_BYTES = 16_384
KILL_ROUNDS, KILL_ROUND_SECONDS = 100, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a server is started, and how long it may take to end after SIGTERM."""

    name: str
    command: tuple[str, ...]
    folder: Path
    log: Path
    scratch: Path | None = None  # emptied before every start
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    grace_seconds: float = 10.0


class Child:
    """A started Launch. Its session keeps the terminal's Ctrl-C away from it, and gathers its own children.

    Start it from a thread that lives as long as it shall: the kernel ties it to that thread.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.name = launch.name
        self._log_start = _size(launch.log)
        if launch.scratch:
            shutil.rmtree(launch.scratch, ignore_errors=True)
            launch.scratch.mkdir(mode=0o700)
        with launch.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own command lines, no shell)
                [sys.executable, "-ISE", str(TETHER), str(os.getpid()), *launch.command],
                cwd=launch.folder,
                env=dict(launch.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.started = start_time(self.pid)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._process.poll()

    def describe_end(self) -> str:
        code = self.exit_code
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def terminate(self) -> None:
        """Ask it to end. Only itself: what it started is its own to end."""
        if self.exit_code is None:
            self._process.terminate()

    def kill(self) -> list[int]:
        """End it and all that is left of its session, at once. Returns the process ids that the kernel still holds."""
        left = kill_session(self.pid)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return left

    def gone(self) -> bool:
        """True once neither it nor anything of its session is alive."""
        return self.exit_code is not None and not session_members(self.pid)

    def last_lines(self, count: int = 12) -> list[str]:
        """What this start of it has written last."""
        with suppress(OSError), self.launch.log.open("rb") as log:
            log.seek(max(self._log_start, _size(self.launch.log) - LAST_LINES_BYTES))
            return log.read().decode(errors="replace").splitlines()[-count:]
        return []


def session_members(leader: int) -> list[psutil.Process]:
    """The live processes of the session that `leader` began. Sessions outlive their leader, and keep its number."""
    return [process for process in psutil.process_iter() if _is_member(process, leader)]


def kill_session(leader: int) -> list[int]:
    """Kill its members, and again those that they have forked meanwhile. Returns who is alive after all that.

    Call it while `leader` lives or at once after its end, before its number can become another process's.
    """
    members: list[psutil.Process] = []
    for _ in range(KILL_ROUNDS):
        if not (members := session_members(leader)):
            break
        for member in members:
            with suppress(psutil.Error):
                member.kill()
        time.sleep(KILL_ROUND_SECONDS)  # psutil's own waiting would take the exit code away from Popen
    return [member.pid for member in members]


def start_time(pid: int) -> float:
    """In seconds since the epoch, 0.0 if no such process lives. One that is dead and not yet reaped does not live."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return 0.0


def _is_member(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
