from __future__ import annotations

import numpy as np
import pytest

from loadtest.analysis.percentiles import is_told, meets_slo, needed_for_slo, percentile, rank_interval


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (95, 95), (99, 99), (99.9, 100), (100, 100), (1, 1)])
def test_a_percentile_is_a_sample(percent: float, expected: float) -> None:
    """Of 1 to 100: the smallest that so many do not exceed, never between two, never above the greatest."""
    samples = np.random.default_rng(1).permutation(np.arange(1, 101))
    assert percentile(samples, percent) == expected


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile(np.empty(0), 50)


@pytest.mark.parametrize(
    ("percent", "needed"),
    [
        (90, [44, 64, 127, 197]),
        (95, [90, 130, 259, 398]),
        (99, [459, 662, 1307, 2010]),
        (99.9, [4603, 6636, 13105, 20140]),
    ],
)
def test_the_requests_that_a_pass_needs_are_mlperfs(percent: float, needed: list[int]) -> None:
    assert [needed_for_slo(late, percent) for late in (0, 1, 5, 10)] == needed
    assert needed_for_slo(50, 99) == 6898


def test_a_pass_is_right_in_99_of_100() -> None:
    """Of a server that truly misses 1 % + a little, at most 1 % of runs pass."""
    chance = np.random.default_rng(4)
    passed = [meets_slo((chance.random(662) < 0.0101).astype(float), 0.5, 99) for _ in range(4000)]
    assert np.mean(passed) <= 0.015
    assert meets_slo(np.zeros(459), 0.5, 99)
    assert not meets_slo(np.zeros(458), 0.5, 99)


@pytest.mark.parametrize(
    ("samples", "low", "high"), [(1000, 98.4, 99.6), (10_000, 98.8, 99.2), (100_000, 98.94, 99.06)]
)
def test_how_far_a_p99_may_be_off(samples: int, low: float, high: float) -> None:
    assert rank_interval(samples, 99) == pytest.approx((low, high), abs=0.02)


def test_a_percentile_is_told_only_of_enough_samples() -> None:
    assert is_told(1_000, 95)
    assert not is_told(999, 95)
    assert is_told(10_000, 99)
    assert not is_told(9_999, 99)
    assert not is_told(99_999, 99.9)
    assert not is_told(10**9, 99.99)
