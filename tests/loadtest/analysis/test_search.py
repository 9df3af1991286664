from __future__ import annotations

import math
from random import Random

import pytest

from loadtest.analysis.search import MOST_PROBES, RateSearch


def run(limit: float, start: float = 50, most: float = 1e6) -> RateSearch:
    search = RateSearch(start=start, most=most)
    while search.rate is not None:
        search.tell(search.rate <= limit)
    return search


@pytest.mark.parametrize("limit", [1.3, 49, 50, 51, 777, 123_456])
def test_the_limit_is_found_within_3_percent(limit: float) -> None:
    found = run(limit).found
    assert limit / 1.0301 <= found <= limit


def test_it_doubles_then_bisects_then_confirms_three_times() -> None:
    search = run(333, start=100)
    rates = [rate for rate, _ in search.probes]
    assert rates[:3] == [100, 200, 400]
    assert rates[3] == pytest.approx(math.sqrt(200 * 400))
    assert search.probes[-3:] == [(search.found, True)] * 3


def test_a_winner_that_fails_once_is_stepped_down() -> None:
    """Passes at first at 400, and never again above 300: luck is not confirmed."""
    search = RateSearch(start=100, most=1e6)
    seen = 0
    while search.rate is not None:
        seen += search.rate > 300
        search.tell(search.rate <= 300 or (search.rate <= 410 and seen <= 2))
    assert search.found <= 300
    assert search.found >= 300 / 1.031


def test_nothing_holds_the_limit() -> None:
    search = run(0.1)
    assert (search.found, search.rate) == (0, None)


def test_the_generators_own_limit_is_said() -> None:
    search = run(1e9, most=1000)
    assert search.found == 1000
    assert search.limited_by_generator


def test_it_ends_whatever_it_is_told() -> None:
    for seed in range(50):
        chance = Random(seed)
        search = RateSearch(start=10, most=1e4)
        while search.rate is not None:
            search.tell(chance.random() < 0.5)
        assert len(search.probes) <= MOST_PROBES
