from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.calibration import checks, record
from loadtest.calibration.checks import Check, stalled
from loadtest.calibration.instrument import Instrument
from loadtest.calibration.record import STALE_SECONDS, Calibration
from loadtest.configuration import machine


def test_the_theory_of_a_stall() -> None:
    """It begins three seconds after the first arrival and lasts one: who comes in it waits for its end."""
    arrivals = np.array([100.0, 3099.0, 3100.0, 3600.0, 4099.0, 4100.0])
    assert stalled(arrivals, 2).tolist() == [2, 2, 1002, 502, 3, 2]


@pytest.mark.full
def test_breaking_the_schedule_into_closed_loop_fails_the_stall_check(known: Instrument) -> None:
    """The check that cannot fail would be none: with waiting callers p99 is that of a quick server."""
    (whole,) = checks.attempted(lambda: checks.known_stall(known, 0.2))
    (broken,) = checks.known_stall(known, 0.2, closed_loop=True)
    assert whole.passed, whole.text
    assert not broken.passed, broken.text


@pytest.mark.full
def test_a_difference_of_5_percent_is_found_and_none_is_made_up(known: Instrument) -> None:
    (same,) = checks.same_twice(known, lambda _: None, runs=8)
    (five,) = checks.five_percent(known, lambda _: None, runs=4)
    assert same.passed, same.text
    assert five.passed, five.text


GOOD = Calibration(machine(), "3", time.time(), False, (Check("null server", True, "fine"),), {})


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    record.write(GOOD, tmp_path)
    assert record.read(tmp_path) == GOOD
    assert record.read(tmp_path / "nowhere") is None


def test_one_that_is_old_of_another_machine_or_failed_does_not_count() -> None:
    import platform

    good = replace(GOOD, python=platform.python_version())
    assert not good.problem(good.at + 60)
    assert "days old" in good.problem(good.at + STALE_SECONDS + 1)
    assert "another, 64 cores" in replace(good, machine="another, 64 cores").problem(good.at)
    assert "late" in replace(good, checks=(Check("null server", False, "late"),)).problem(good.at)
