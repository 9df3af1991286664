from __future__ import annotations

import math

import numpy as np
import pytest

from loadtest.analysis.ratios import Ratio, paired, pairs_needed
from loadtest.analysis.student import quantile, two_sided_p


def normal_logs(seed: int, pairs: int, mean: float, deviation: float) -> Ratio:
    return Ratio(tuple(np.random.default_rng(seed).normal(mean, deviation, pairs)))


@pytest.mark.parametrize(
    ("t", "freedom", "p"), [(12.706, 1, 0.05), (2.262, 9, 0.05), (2.093, 19, 0.05), (3.25, 9, 0.01)]
)
def test_students_t_is_the_tables(t: float, freedom: int, p: float) -> None:
    assert two_sided_p(t, freedom) == pytest.approx(p, rel=1e-3)
    assert quantile(1 - p, freedom) == pytest.approx(t, rel=1e-3)


def test_the_estimate_is_the_geometric_mean_of_the_pairs_ratios() -> None:
    """What slows both legs of a pair does not count: 1:2 and 100:200 are the same."""
    ratio = paired([1, 100, 7], [2, 200, 14])
    assert ratio.estimate == pytest.approx(0.5)
    assert ratio.deviation == pytest.approx(0)
    assert ratio.p_value == 0
    interval = ratio.bootstrap()
    assert (interval.low, interval.high) == pytest.approx((0.5, 0.5))


def test_swapping_the_legs_inverts_the_ratio() -> None:
    one, other = [3.0, 3.3, 2.9, 3.1], [4.0, 4.1, 3.7, 4.4]
    assert paired(one, other).estimate == pytest.approx(1 / paired(other, one).estimate)


@pytest.mark.parametrize("values", [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0])])
def test_what_has_no_ratio_is_refused(values: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match=r"pairs|above 0"):
        paired(*values)


@pytest.mark.parametrize("method", ["bootstrap", "student"])
def test_the_interval_holds_the_truth_as_often_as_it_says(method: str) -> None:
    """95 of 100 at 20 pairs, by 200 experiments; the bootstrap is known to be a little too sure over few pairs."""
    held = 0
    for seed in range(200):
        interval = getattr(normal_logs(seed, 20, 0.05, 0.04), method)()
        held += interval.within(0, math.exp(0.05)) is False and not interval.excludes(math.exp(0.05))
    assert 0.90 <= held / 200 <= 0.985


def test_the_bootstrap_is_over_pairs_and_repeats_itself() -> None:
    ratio = normal_logs(1, 12, 0.1, 0.03)
    assert ratio.bootstrap(seed=5) == ratio.bootstrap(seed=5)
    wide, narrow = ratio.bootstrap(0.99), ratio.bootstrap(0.90)
    assert wide.low < narrow.low < ratio.estimate < narrow.high < wide.high


@pytest.mark.parametrize(
    ("deviation", "needed"),
    [(0.01, [18, 7, 4, 3]), (0.02, [64, 18, 7, 5]), (0.03, [141, 38, 12, 7]), (0.05, [387, 99, 27, 14])],
)
def test_pairs_needed_are_the_tables(deviation: float, needed: list[int]) -> None:
    assert [pairs_needed(deviation, width) for width in (0.005, 0.01, 0.02, 0.03)] == needed


def test_so_many_pairs_are_indeed_enough() -> None:
    widths = [
        math.log(r.high / r.low) / 2
        for r in (normal_logs(s, pairs_needed(0.05, 0.02), 0, 0.05).student() for s in range(50))
    ]
    assert np.median(widths) == pytest.approx(0.02, rel=0.1)
