"""Ratios are of one round's turns, against the best of the others, and a fault is never met."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.bench.jobs import Job, Result
from loadtest.bench.measure import Options, Outcome, Target, compare, p50
from loadtest.bench.payloads import Payload
from loadtest.bench.report import Line
from loadtest.bench.stack import rename

JOB = Payload.random("x", (1, 1), count=1).v2_binary(1, "/")


class Scripted:
    """A generator whose answers are computed: the path of a job names its leg."""

    def __init__(self, answer: Callable[[str, int], Result]) -> None:
        self._answer = answer
        self.turns: list[str] = []

    def run(self, job: Job) -> Result:
        self.turns.append(job.path)
        return self._answer(job.path, self.turns.count(job.path))


def result(requests: int, *, p50_us: float = 100.0, errors: int = 0) -> Result:
    return Result(requests, 1.0, p50_us, p50_us, errors, 0, 1, "", 0.0)


def leg(name: str) -> Job:
    return replace(JOB, path=name)


def run(answer: Callable[[str, int], Result], **more: object) -> tuple[Outcome, list[str]]:
    generator = Scripted(answer)
    options = Options(rounds=3, seconds=1, warm_seconds=1)
    legs = {"slow": leg("slow"), "fast": leg("fast")}
    return compare(generator, leg("ours"), legs, options, **more), generator.turns  # type: ignore[arg-type]


def test_the_ratio_is_against_the_best_other_round_by_round() -> None:
    """The first turn of each leg warms it. The machine gets slower by the turn: ratios do not see it."""
    rates = {"ours": 6000, "slow": 100, "fast": 2000}
    outcome, turns = run(lambda path, turn: result(rates[path] // turn))
    assert turns == ["ours", "slow", "fast"] * 4
    assert outcome.numbers == pytest.approx([3, 3, 3], rel=0.01)
    assert not outcome.faults


def test_for_latencies_the_best_is_the_lowest() -> None:
    times = {"ours": 150.0, "slow": 500.0, "fast": 100.0}
    outcome, _ = run(lambda path, _: result(10, p50_us=times[path]), measure=p50)
    assert outcome.number == pytest.approx(1.5)


def test_a_row_with_a_fault_is_not_met_however_good_its_number() -> None:
    outcome, _ = run(lambda path, turn: result(100, errors=int(path == "ours" and turn == 3)))
    assert outcome.number == 1
    assert len(outcome.faults) == 1
    assert not Line("row", "", Target(least=0.5), outcome).met
    assert Line("row", "", Target(least=0.5), Outcome([1.0], "")).met


def test_a_leg_that_never_answers_has_no_number() -> None:
    outcome, _ = run(lambda path, _: result(0 if path == "fast" else 10))
    assert outcome.number != outcome.number
    assert not Line("row", "", Target(most=9), outcome).met


def test_an_archive_under_another_name_keeps_its_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "a", "modelVersion": "7"}}))
        archive.writestr("model.pt", b"weights")
    rename(tmp_path / "a.mar", tmp_path / "b.mar", name="b")
    with zipfile.ZipFile(tmp_path / "b.mar") as copy:
        assert json.loads(copy.read("MAR-INF/MANIFEST.json"))["model"] == {"modelName": "b", "modelVersion": "1"}
        assert copy.read("model.pt") == b"weights"
