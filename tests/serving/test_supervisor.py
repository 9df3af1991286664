from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.runrecord import RunRecord
from serving.supervisor import Crashed, Supervisor
from tests.serving.programs import CRASH, DEAF, PARENT, SLEEP, alive, launch, wait_until, worker_of

STAMP = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print(time.time()), sys.exit(0))); " + SLEEP
)


class World:
    """A supervisor over these launches, with a clock that a test can move and the lines that it reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = RunRecord(folder / "run.json")
        self.lines: list[str] = []
        self.skipped_seconds = 0.0
        self.supervisor = self.supervise()

    def supervise(self, *programs: str, **more: float) -> Supervisor:
        stages = [[launch(self.folder, program, name=f"server{i}", **more)] for i, program in enumerate(programs)]
        self.supervisor = Supervisor(stages, record=self.record, report=self.lines.append, now=self.now)
        return self.supervisor

    def now(self) -> float:
        return time.monotonic() + self.skipped_seconds


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.supervisor.stop(hurry=lambda: True)


def test_a_child_that_ends_while_starting_is_told_with_its_last_lines(world: World) -> None:
    """The line says which server and how it ended; the log says why."""
    supervisor = world.supervise(CRASH)
    supervisor.start()
    wait_until(lambda: supervisor.children[0].exit_code is not None)
    with pytest.raises(Crashed, match="server0 ended with exit code 3 while starting") as caught:
        supervisor.check_all_alive()
    assert caught.value.last_lines == ("no such model: x",)
    assert caught.value.log == world.folder / "server0.log"


def test_a_killed_child_is_reported_and_started_again_after_a_delay(world: World) -> None:
    """One line when it dies; the new one is another process; the others go on."""
    supervisor = world.supervise(SLEEP, SLEEP)
    supervisor.start()
    other, victim = (child.pid for child in supervisor.children)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: supervisor.children[1].exit_code is not None)
    supervisor.restart_dead()
    supervisor.restart_dead()
    assert world.lines == ["server1 was ended by SIGKILL; starting it again in 1 s"]
    assert supervisor.children[1].pid == victim, "not before its time"
    world.skipped_seconds = 1.0
    supervisor.restart_dead()
    assert supervisor.children[0].pid == other
    assert supervisor.children[1].pid != victim
    assert supervisor.children[1].exit_code is None


def test_what_a_dead_server_left_is_ended_before_it_starts_again(world: World) -> None:
    """An orphaned worker would hold its port or its memory."""
    supervisor = world.supervise(PARENT)
    supervisor.start()
    worker = worker_of(world.folder / "server0.log")
    os.kill(supervisor.children[0].pid, signal.SIGKILL)
    wait_until(lambda: supervisor.children[0].exit_code is not None)
    supervisor.restart_dead()
    assert not alive(worker)


def test_a_server_that_keeps_crashing_ends_it_all(world: World) -> None:
    """The fifth crash within a minute is one too many."""
    supervisor = world.supervise(CRASH)
    supervisor.start()
    for delay in (1, 2, 4, 8):
        wait_until(lambda: supervisor.children[0].exit_code is not None)
        supervisor.restart_dead()
        world.skipped_seconds += delay
        supervisor.restart_dead()
    wait_until(lambda: supervisor.children[0].exit_code is not None)
    with pytest.raises(Crashed, match="the 5th time within 60 s"):
        supervisor.restart_dead()
    assert len(world.lines) == 4


def test_stages_stop_in_the_opposite_order_of_their_start(world: World) -> None:
    """The gateway, started last, has ended before the servers behind it hear of it."""
    supervisor = world.supervise(STAMP, STAMP)
    supervisor.start()
    logs = [world.folder / f"server{index}.log" for index in range(2)]
    wait_until(lambda: all("up" in log.read_text() for log in logs))
    assert supervisor.stop() == []
    server, gateway = (float(log.read_text().split()[-1]) for log in logs)
    assert gateway < server


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(world: World) -> None:
    """And not before."""
    supervisor = world.supervise(DEAF, grace_seconds=0.5)
    supervisor.start()
    wait_until(lambda: "up" in (world.folder / "server0.log").read_text())
    begun = time.monotonic()
    assert supervisor.stop() == []
    assert 0.5 < time.monotonic() - begun < 5
    assert supervisor.children[0].describe_end() == "was ended by SIGKILL"


def test_hurry_kills_at_once(world: World) -> None:
    """The second Ctrl-C."""
    supervisor = world.supervise(DEAF, grace_seconds=60)
    supervisor.start()
    wait_until(lambda: "up" in (world.folder / "server0.log").read_text())
    begun = time.monotonic()
    assert supervisor.stop(hurry=lambda: time.monotonic() - begun > 0.3) == []
    assert time.monotonic() - begun < 10


def test_a_worker_that_outlives_its_server_is_ended_too(world: World) -> None:
    """The server ends at SIGTERM, its worker ignores it: the grace counts for the whole session."""
    supervisor = world.supervise(PARENT, grace_seconds=0.5)
    supervisor.start()
    worker = worker_of(world.folder / "server0.log")
    assert supervisor.stop() == []
    assert not alive(worker)


def test_a_stopped_server_waiting_for_its_restart_is_no_trouble(world: World) -> None:
    """Ctrl-C may come between a crash and the restart."""
    supervisor = world.supervise(CRASH)
    supervisor.start()
    wait_until(lambda: supervisor.children[0].exit_code is not None)
    supervisor.restart_dead()
    assert supervisor.stop() == []
