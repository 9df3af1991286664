from __future__ import annotations

import numpy as np
import pytest

from loadtest.analysis.ratios import Ratio
from loadtest.analysis.verdicts import ALPHA, Kind, holm, judge, judge_all, sentence


def logs(mean: float, deviation: float, pairs: int = 20, seed: int = 0) -> Ratio:
    """With exactly this mean and deviation."""
    drawn = np.random.default_rng(seed).normal(size=pairs)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1)
    return Ratio(tuple(mean + deviation * drawn))


@pytest.mark.parametrize(
    ("mean", "deviation", "kind"),
    [
        (-0.20, 0.05, Kind.FASTER),
        (+0.20, 0.05, Kind.SLOWER),
        (-0.04, 0.03, Kind.UNSURE),  # beyond 1, on both sides of the margin
        (+0.15, 0.27, Kind.UNSURE),
        (-0.015, 0.01, Kind.SMALL),
        (0.0, 0.02, Kind.EQUIVALENT),
        (0.0, 0.20, Kind.INCONCLUSIVE),
        (-0.05, 0.20, Kind.INCONCLUSIVE),
    ],
)
def test_the_verdict_at_a_margin_of_3_percent(mean: float, deviation: float, kind: Kind) -> None:
    assert judge(logs(mean, deviation)).kind is kind


def test_of_a_throughput_more_is_better() -> None:
    assert judge(logs(0.2, 0.05), smaller_is_better=False).kind is Kind.FASTER


def test_fewer_than_eight_pairs_say_nothing() -> None:
    found = judge(logs(-0.5, 0.01, pairs=7))
    assert (found.kind, found.more_pairs) == (Kind.INSUFFICIENT, 1)
    assert judge(logs(-0.5, 0.01, pairs=8)).kind is Kind.FASTER


def test_inconclusive_says_how_many_pairs_more() -> None:
    found = judge(logs(0.0, 0.10))
    assert found.kind is Kind.INCONCLUSIVE
    assert 20 + found.more_pairs == pytest.approx(47, abs=2)  # (2.01 * 0.10 / ln 1.03)^2
    assert f"about {found.more_pairs} more pairs" in sentence(found, "a", "b", "p50")


def test_a_difference_whose_size_is_unsure_is_not_called_small() -> None:
    """0.86 times, somewhere from 0.80 to 0.98: it may matter much."""
    found = judge(logs(-0.15, 0.12, pairs=8))
    assert found.kind is Kind.FASTER
    corrected = judge(logs(-0.15, 0.12, pairs=8), alpha=0.0125)
    assert corrected.kind is Kind.UNSURE
    said = sentence(corrected, "a", "b", "p50")
    assert said.startswith("a and b differ in p50, and whether by as much as matters is not sure: 0.861 times b's")
    assert f"about {corrected.more_pairs} more pairs are needed" in said


def test_a_difference_far_beyond_the_margin_needs_few_pairs_more() -> None:
    """As many as are told, with the same mean and spread, are enough; a quarter fewer are not."""
    found = judge(logs(-0.24, 0.30, pairs=8), alpha=ALPHA / 6)
    assert found.kind is Kind.INCONCLUSIVE
    assert found.more_pairs < 30
    wanted = 8 + found.more_pairs
    assert judge(logs(-0.24, 0.30, pairs=wanted + 1), alpha=ALPHA / 6).kind is Kind.FASTER
    assert judge(logs(-0.24, 0.30, pairs=3 * wanted // 4), alpha=ALPHA / 6).kind is not Kind.FASTER


def test_two_legs_of_the_same_are_called_different_in_5_of_100() -> None:
    found = [judge(Ratio(tuple(np.random.default_rng(seed).normal(0, 0.05, 20)))).kind for seed in range(200)]
    assert sum(kind.is_difference for kind in found) <= 16  # of 200, 10 are expected


def test_five_percent_are_found_at_twenty_pairs() -> None:
    found = [judge(Ratio(tuple(np.random.default_rng(seed).normal(-0.0488, 0.03, 20)))).kind for seed in range(100)]
    assert sum(kind.is_difference for kind in found) >= 90


def test_holms_levels() -> None:
    assert holm([0.04, 0.001, 0.015]) == pytest.approx([0.05, 0.05 / 3, 0.025])
    assert holm([0.03, 0.04]) == pytest.approx([0.025, 0.025]), "once one fails, none after it passes"
    assert holm([]) == []


def test_with_holm_one_cell_in_twenty_is_no_difference_any_more() -> None:
    """Each of ten cells alone would be called different at p = 0.03; together none is."""
    ratio = next(
        r
        for seed in range(999)
        if 0.029 < (r := Ratio(tuple(np.random.default_rng(seed).normal(0, 0.05, 20)))).p_value < 0.031
    )
    assert ratio.student().excludes(1)
    found = judge_all([ratio] * 10, smaller_is_better=[True] * 10)
    assert not any(one.kind.is_difference for one in found)
    strong = judge_all([logs(-0.3, 0.02), *[ratio] * 9], smaller_is_better=[True] * 10)
    assert [one.kind.is_difference for one in strong] == [True] + [False] * 9
