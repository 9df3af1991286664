from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.children import start_time
from serving.runrecord import AlreadyRunning, RunRecord
from tests.serving.programs import PARENT, alive, wait_until, worker_of


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server with a worker in a session of its own, as a killed supervisor without a kernel's help leaves it."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-uc", PARENT], start_new_session=True, stdout=log)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait()


def write(path: Path, *, supervisor_started: float, child: int, child_started: float) -> None:
    record = {
        "supervisor": {"name": "serving up", "pid": os.getpid(), "started": supervisor_started},
        "children": [{"name": "torchserve", "pid": child, "started": child_started}],
    }
    path.write_text(json.dumps(record))


def test_a_killed_runs_orphans_are_ended_with_their_workers(tmp_path: Path, orphan: subprocess.Popen[bytes]) -> None:
    """The supervisor's number is somebody else's by now; the child is the very process that was recorded."""
    worker = worker_of(tmp_path / "log")
    write(tmp_path / "run.json", supervisor_started=1.0, child=orphan.pid, child_started=start_time(orphan.pid))
    assert RunRecord(tmp_path / "run.json").claim() == ["torchserve"]
    wait_until(lambda: orphan.poll() is not None)
    assert not alive(worker)


def test_a_recycled_process_number_is_not_hit(tmp_path: Path, orphan: subprocess.Popen[bytes]) -> None:
    """Same number, another start time: an innocent."""
    write(tmp_path / "run.json", supervisor_started=1.0, child=orphan.pid, child_started=start_time(orphan.pid) - 60)
    assert RunRecord(tmp_path / "run.json").claim() == []
    assert orphan.poll() is None


def test_a_second_supervisor_in_the_same_folder_is_refused(tmp_path: Path, orphan: subprocess.Popen[bytes]) -> None:
    """The first one's servers are no orphans."""
    started = start_time(os.getpid())
    write(tmp_path / "run.json", supervisor_started=started, child=orphan.pid, child_started=start_time(orphan.pid))
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}.*--run-dir"):
        RunRecord(tmp_path / "run.json").claim()
    assert orphan.poll() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_record_that_says_nothing_ends_nothing(tmp_path: Path, text: str) -> None:
    """A torn file is possible where a disk was full."""
    (tmp_path / "run.json").write_text(text)
    assert RunRecord(tmp_path / "run.json").claim() == []


def test_a_dead_supervisor_that_nobody_has_reaped_is_dead(tmp_path: Path) -> None:
    """Killed inside a container it may stay a zombie for ever: it must not bar the folder."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as supervisor:
        started = start_time(supervisor.pid)
        record = {"supervisor": {"name": "serving up", "pid": supervisor.pid, "started": started}, "children": []}
        (tmp_path / "run.json").write_text(json.dumps(record))
        supervisor.kill()
        wait_until(lambda: not alive(supervisor.pid))
        assert RunRecord(tmp_path / "run.json").claim() == []
