from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtest.analysis.validity import RULES, BlockFacts, Violation, drift, is_steady, lateness, of_block, spoilt, weigh

GOOD = BlockFacts(
    name="block 1",
    requests=2000,
    failed=2,
    dropped=0,
    offered_per_second=100,
    achieved_per_second=99.5,
    lag_p99_ms=0.9,
    p50_ms=5,
    generator_cpu=0.5,
    foreign_cpu=0.04,
)


def test_a_good_block_breaks_no_rule() -> None:
    assert not list(of_block(GOOD))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"generator_cpu": 0.81}, "V2"),
        ({"achieved_per_second": 98.9}, "V4"),
        ({"dropped": 1}, "V5"),
        ({"foreign_cpu": 0.06}, "V8"),
        ({"failed": 3}, "V9"),
    ],
)
def test_each_rule_is_broken_just_beyond_its_limit(change: dict[str, float], rule: str) -> None:
    (found,) = of_block(replace(GOOD, **change))  # type: ignore[arg-type]
    assert found.rule == rule
    assert found.where == "block 1"


def test_a_leg_is_late_by_more_than_1_ms() -> None:
    assert not list(lateness("a leg", 1.0, 5))
    (found,) = lateness("a leg", 1.01, 5)
    assert (found.rule, found.where) == ("V1", "a leg")


def test_a_slow_server_allows_a_late_generator() -> None:
    """5 % of the median, where that is above 1 ms."""
    assert not list(lateness("a leg", 4.9, 100))
    assert list(lateness("a leg", 5.1, 100))


def test_a_late_block_is_spoilt_and_does_not_end_the_run_by_itself() -> None:
    """Nor is one repeated for what a server did."""
    late = replace(GOOD, lag_p99_ms=1.01)
    assert not list(of_block(late))
    assert [one.rule for one in spoilt(late)] == ["V1"]
    assert [one.rule for one in spoilt(replace(late, foreign_cpu=0.06, failed=99, dropped=9))] == ["V1", "V8"]


def test_what_cannot_be_seen_breaks_no_rule() -> None:
    assert not list(of_block(replace(GOOD, generator_cpu=None, foreign_cpu=None)))


def test_a_rule_is_left_aside_by_name_alone_and_stays_visible() -> None:
    found = [Violation("V8", "block 1", "busy"), Violation("V1", "block 1", "late")]
    validity = weigh(found, {"V8": "a shared machine"})
    assert [one.rule for one in validity.broken] == ["V1"]
    assert [one.rule for one in validity.allowed] == ["V8"]
    assert not validity.holds
    assert validity.reasons == {"V8": "a shared machine"}


@pytest.mark.parametrize(
    ("values", "steady"),
    [([5, 1, 1.02, 1.04], True), ([1, 1, 1.06], False), ([1, 1], False), ([0, 0, 0], False), ([1, 1.05, 1.05], True)],
)
def test_steady_is_three_windows_within_5_percent(values: list[float], steady: bool) -> None:
    assert is_steady(values) is steady


def test_a_ratio_that_drifts_is_found_and_one_that_wanders_is_not() -> None:
    """A server that gets a third quicker from pair to pair while both feel the same machine; noise of 5 %."""
    chance = np.random.default_rng(0)
    noise = chance.normal(scale=0.05, size=(400, 8))
    drifting = noise - np.linspace(0, np.log(1.5), 8)
    assert sum(drift(list(logs)) != 1 for logs in noise) <= 0.02 * 400
    assert sum(drift(list(logs)) < 0.8 for logs in drifting) >= 0.9 * 400


def test_a_drift_that_is_sure_and_small_is_none() -> None:
    logs = list(np.linspace(0, 0.04, 8))
    assert drift(logs) == 1
    assert drift([2 * one for one in logs]) == pytest.approx(np.exp(0.08))


def test_seven_pairs_show_no_drift() -> None:
    with pytest.raises(ValueError, match="8 pairs"):
        drift([0.0] * 7)


def test_every_rule_has_a_sentence() -> None:
    assert list(RULES) == [f"V{number}" for number in range(1, 11)]
