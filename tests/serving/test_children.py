from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.children import Child
from tests.serving.programs import CRASH, DEAF, PARENT, SLEEP, alive, launch, wait_until, worker_of


def test_a_child_has_a_session_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C in the terminal reaches the supervisor's group only; what stops a child is the supervisor."""
    child = Child(launch(tmp_path, SLEEP))
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.kill()


def test_kill_ends_the_childs_own_children_too(tmp_path: Path) -> None:
    """A worker that ignores SIGTERM and outlives its parent is still of its session."""
    child = Child(launch(tmp_path, PARENT))
    worker = worker_of(child.launch.log)
    child.terminate()
    wait_until(lambda: child.exit_code is not None)
    assert alive(worker)
    assert not child.gone()
    assert child.kill() == []
    assert not alive(worker)
    assert child.gone()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_dies_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL lets nobody clean up: the kernel has to."""
    program = (
        "import sys, time; from pathlib import Path; from serving.children import Child;"
        "from tests.serving.programs import SLEEP, launch;"
        "child = Child(launch(Path(sys.argv[1]), SLEEP)); print(child.pid, flush=True); time.sleep(600)"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    with supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        wait_until(lambda: "up" in (tmp_path / "server.log").read_text())
        supervisor.kill()
    wait_until(lambda: not alive(pid))


def test_the_last_lines_are_those_of_this_start(tmp_path: Path) -> None:
    """A restart appends to the log; its failure must not be explained with the words of the one before."""
    first = Child(launch(tmp_path, "print('first')"))
    wait_until(lambda: first.exit_code == 0)
    second = Child(launch(tmp_path, CRASH))
    wait_until(lambda: second.exit_code == 3)
    assert second.last_lines() == ["no such model: x"]
    assert "first" in second.launch.log.read_text()


def test_a_program_that_is_not_there_ends_with_a_line_that_names_it(tmp_path: Path) -> None:
    """The tether runs and then finds no program: its line is in the log."""
    launched = launch(tmp_path, "")
    child = Child(type(launched)(name="x", command=("/nowhere/java",), folder=tmp_path, log=launched.log))
    wait_until(lambda: child.exit_code is not None)
    assert child.last_lines() == ["/nowhere/java: No such file or directory"]
    assert child.describe_end() == "ended with exit code 1"


def test_an_end_by_signal_is_told_by_its_name(tmp_path: Path) -> None:
    """SIGKILL is what the system's memory guard sends."""
    child = Child(launch(tmp_path, DEAF))
    child.kill()
    assert child.describe_end() == "was ended by SIGKILL"
