"""The comparison as its user runs it, against the real gateway and both real servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtest.calibration import record
from loadtest.coldstart import steady_after
from models.artifacts import Store
from tests.models.test_parity import MODEL as CHANGED
from tests.models.test_parity import change_pytorch
from tests.stack import ARTIFACTS, READY, ROOT, START_SECONDS, Stack, start_stack

#: What this machine does besides must not decide a test.
LEFT_ASIDE = [part for rule in ("V1", "V2", "V3", "V4", "V8", "V10") for part in ("--allow", f"{rule}=a test")]
OPTIONS = ["linear_regression", "--rate", "80", "--seconds", "2", *LEFT_ASIDE]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("small")
    started = start_stack(folder, "--artifacts", str(ARTIFACTS), "--models", "linear_regression", "--timeout", "240")
    try:
        started.wait_for_text(READY, START_SECONDS)
        yield started
    finally:
        started.stop()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """With a calibration, so that none is made."""
    found = record.Calibration(record.machine(), sys.version.split()[0], time.time(), False, (), FIGURES)
    record.write(found, tmp_path)
    return tmp_path


FIGURES = {"most_http_per_second": 5000.0, "most_grpc_per_second": 2000.0}


def command(small: Stack, runs: Path, *options: str) -> list[str]:
    config = small.run_dir / "duet.yaml"
    return [
        sys.executable,
        "-m",
        "loadtest",
        "compare",
        *OPTIONS,
        "--config",
        str(config),
        "--out",
        str(runs),
        *options,
    ]


def results(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(runs.glob("*/result.json"))]


@pytest.mark.full
def test_a_comparison_over_two_fronts_ends_with_a_verdict_and_a_page(small: Stack, runs: Path) -> None:
    """Eight pairs, both kinds of front, through the gateway and directly."""
    fronts = ["--front", "v2_rest_binary", "--front", "v2_grpc", "--pairs", "8"]
    ended = subprocess.run(command(small, runs, *fronts), cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (result,) = results(runs)
    assert {one["front"] for one in result["verdicts"]} == {"v2_rest_binary", "v2_grpc"}
    assert all(one["pairs"] == 8 for one in result["verdicts"])
    assert [one["when"] for one in result["parity"]][:2] == ["files", "before"]
    assert result["parity"][-1]["when"] == "after"
    for cell in result["cells"]:
        assert set(cell["legs"]) == {f"{view}/{v}" for view in ("gateway", "direct") for v in ("tensorflow", "pytorch")}
        assert all(leg["failed"] == 0 for leg in cell["legs"].values())
        assert cell["ledger"]["tensorflow"]["backend"] > 0
    page = next(runs.glob("*/report.html")).read_text()
    assert result["sentence"] in page


@pytest.mark.full
def test_an_interrupted_run_goes_on_where_it_was(small: Stack, runs: Path) -> None:
    arguments = command(small, runs, "--pairs", "2", "--no-direct")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        while "block 3 of 4" not in first.stdout.readline():
            assert first.poll() is None
        first.send_signal(signal.SIGINT)
        assert "--resume" in first.stdout.read()
    assert first.returncode == 130
    assert not results(runs)
    ended = subprocess.run([*arguments, "--resume"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout
    assert "block 1 of 4" not in ended.stdout
    assert "block 3 of 4" in ended.stdout
    assert results(runs)[0]["verdicts"][0]["verdict"] == "insufficient"


SPINS = """
import os, sys, time
busy, idle, *cores = (float(word) for word in sys.argv[1:])
os.sched_setaffinity(0, {int(core) for core in cores})
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
except PermissionError:
    print("beside", flush=True)
print("first", flush=True)
while True:
    end = time.monotonic() + busy
    while time.monotonic() < end:
        pass
    time.sleep(idle)
"""


@contextmanager
def starved(core: int, *, busy: float, idle: float) -> Iterator[None]:
    """Takes a core for ``busy`` of every ``busy + idle`` seconds, before the generator and everybody else."""
    command = [sys.executable, "-c", SPINS, str(busy), str(idle), str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as spinning:
        assert spinning.stdout is not None
        try:
            if spinning.stdout.readline() != "first\n":
                pytest.skip("nobody can be kept from a core here: real-time priority is not allowed")
            yield
        finally:
            spinning.kill()


def strict(small: Stack, runs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A short comparison with no rule left aside."""
    config = small.run_dir / "duet.yaml"
    arguments = [*command(small, runs)[:4], "linear_regression", "--rate", "80", "--seconds", "2", "--pairs", "2"]
    arguments += ["--no-direct", "--config", str(config), "--out", str(runs), *options]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.full
def test_a_generator_on_a_starved_core_ends_invalid_and_shows_no_ratio(small: Stack, runs: Path) -> None:
    """The blocks that the machine spoilt are repeated, and not without end."""
    core = max(os.sched_getaffinity(0))
    with starved(core, busy=0.045, idle=0.005):
        ended = strict(small, runs, "--generator-cores", str(core))
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "INVALID: V1 " in ended.stdout
    assert ended.stdout.count("The block is repeated.") == 1
    (result,) = results(runs)
    assert "V1" in {rule for rule, _, _ in result["validity"]["broken"]}
    assert not result["verdicts"]
    assert "This run is invalid" in next(runs.glob("*/report.html")).read_text()


@pytest.mark.full
def test_a_twin_with_one_changed_weight_is_not_comparable(tmp_path: Path, runs: Path) -> None:
    """The servers run on it, quickly and well; it gets no load and no verdict."""
    copy = Store(tmp_path / "artifacts")
    for part in ("tensorflow", "pytorch", "training"):
        (copy.root / part).mkdir(parents=True)
        for path in (ARTIFACTS / part).glob(f"{CHANGED}*"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy.root / part / path.name)
    change_pytorch(copy, tmp_path, 0.1)
    started = start_stack(tmp_path, "--artifacts", str(copy.root), "--models", CHANGED, "--timeout", "240")
    try:
        started.wait_for_text(READY, START_SECONDS)
        arguments = [*command(started, runs)[:4], CHANGED, *command(started, runs)[5:]]
        ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    finally:
        started.stop()
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert f"NOT COMPARABLE: {CHANGED} 2 pytorch: its weights have the fingerprint sha256:" in ended.stdout
    assert "block 1 of" not in ended.stdout
    assert not list(runs.glob(f"{CHANGED}-*"))


@pytest.mark.full
def test_a_generator_that_cannot_be_calibrated_here_sends_no_load(small: Stack, tmp_path: Path) -> None:
    """Both cores are taken for tens of milliseconds at a time: three attempts fail, and nothing is left behind."""
    with ExitStack() as stack:
        for core in os.sched_getaffinity(0):
            stack.enter_context(starved(core, busy=0.02, idle=0.02))
        ended = strict(small, tmp_path)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "INVALID: V10 calibration: " in ended.stdout
    assert "No load was sent" in ended.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    ("medians", "seconds"),
    [([9, 4, 2, 1.05, 1, 1, 1], 3), ([1, 1, 1, 1], 0), ([9, 5, 3, 2, 1], 5), ([1, 9, 1, 1, 1], 2)],
)
def test_steady_is_the_begin_of_three_windows_like_the_last(medians: list[float], seconds: float) -> None:
    assert steady_after(medians) == seconds
