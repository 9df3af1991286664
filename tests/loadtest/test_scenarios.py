"""Each scenario as a person runs it: plain ``locust -f ... --headless``, here before a server that answers anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.calibration.instrument import Instrument
from loadtest.fronts import FRONTS
from loadtest.recorder import Block
from tests.stack import ROOT

SCENARIOS = sorted(path for path in (ROOT / "loadtest" / "scenarios").glob("[a-z]*.py"))


def locust(scenario: str, known: Instrument, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        f"loadtest/scenarios/{scenario}.py",
        "--headless",
        "--only-summary",
    ]
    command += ["--host", f"http://127.0.0.1:{known.http_port}", "--grpc", f"127.0.0.1:{known.grpc_port}"]
    command += ["--model", "linear_regression", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_there_are_nine() -> None:
    names = "smoke steady ramp spike soak batch_sweep payload_sweep mixed_fronts cold_start"
    assert {path.stem for path in SCENARIOS} == set(names.split())


def test_a_threshold_decides_the_exit_code_and_says_why(known: Instrument, tmp_path: Path) -> None:
    """Both kinds of front in one process; the samples are in nanoseconds, one file a front."""
    good = locust("smoke", known, "-u", "7", "-r", "7", "--seconds", "2", "--samples", str(tmp_path))
    assert good.returncode == 0, good.stderr
    files = {path.name.split("-")[1]: Block.read([path]) for path in tmp_path.glob("*.npy")}
    assert set(files) == set(FRONTS)
    assert all(len(block) > 20 and not block.failed.any() for block in files.values())
    slow = locust("steady", known, "--seconds", "2", "--max-p99-ms", "0.0001")
    assert slow.returncode == 1
    assert "at most 0.0001 ms are allowed" in slow.stderr


@pytest.mark.full
@pytest.mark.parametrize("name", [path.stem for path in SCENARIOS])
def test_it_runs_plainly_and_ends_by_itself(name: str, known: Instrument) -> None:
    ended = locust(name, known, "--seconds", "5", "--rate", "50", "-u", "2", "-r", "2", "--admin", "127.0.0.1:1")
    if name == "soak":  # there is no gateway whose memory could be read, and the scenario must not pass without
        assert ended.returncode == 1
        assert "memory cannot be read" in ended.stderr
    else:
        assert ended.returncode == 0, ended.stderr + ended.stdout


@pytest.mark.full
@pytest.mark.parametrize("front", FRONTS)
def test_every_front_can_be_chosen(front: str, known: Instrument) -> None:
    ended = locust("steady", known, "--seconds", "2", "--front", front)
    assert ended.returncode == 0, ended.stderr
    assert front in ended.stderr + ended.stdout
