from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest

from loadtest.analysis.arrivals import SECOND, generator, payload_order, poisson, varying
from loadtest.analysis.turns import abba


def test_both_legs_of_a_pair_get_the_same_arrivals_and_the_same_payloads() -> None:
    one, other = generator(7, "convnet", 3, 0), generator(7, "convnet", 3, 0)
    assert poisson(one, 100, 5).tolist() == poisson(other, 100, 5).tolist()
    assert payload_order(one, 50, 8).tolist() == payload_order(other, 50, 8).tolist()


def test_another_pair_worker_cell_or_seed_gets_others() -> None:
    known = {tuple(poisson(generator(*key), 100, 2)) for key in [(7, "a", 0, 0), (7, "a", 1, 0), (7, "a", 0, 1)]}
    known |= {tuple(poisson(generator(*key), 100, 2)) for key in [(8, "a", 0, 0), (7, "b", 0, 0)]}
    assert len(known) == 5


def test_gaps_are_exponential() -> None:
    """Mean and standard deviation are both 1 / rate, and 63.2 % of the gaps are below it."""
    gaps = np.diff(poisson(Random(1), 1000, 100)) / SECOND
    assert np.mean(gaps) == pytest.approx(1e-3, rel=0.02)
    assert np.std(gaps) == pytest.approx(1e-3, rel=0.02)
    assert np.mean(gaps < 1e-3) == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_counts_a_second_vary_as_poissons_do() -> None:
    """Variance equals mean; a constant rate would have none, and a clumped one more."""
    counts = np.bincount(poisson(Random(2), 200, 400) // SECOND)
    assert np.var(counts) == pytest.approx(np.mean(counts), rel=0.25)


def test_workers_add_up_to_the_rate() -> None:
    parts = [poisson(generator(1, "c", 0, worker), 100 / 4, 200) for worker in range(4)]
    gaps = np.diff(np.sort(np.concatenate(parts))) / SECOND
    assert np.mean(gaps) == pytest.approx(0.01, rel=0.03)
    assert np.std(gaps) == pytest.approx(0.01, rel=0.05)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        poisson(Random(1), 0, 1)


def test_a_varying_rate_is_followed() -> None:
    times = varying(Random(3), lambda second: 20 * second, 200, 10) / SECOND
    early, late = np.sum(times < 5), np.sum(times >= 5)
    assert late / early == pytest.approx(3, rel=0.2)
    assert len(times) == pytest.approx(1000, rel=0.1)


def test_turns_are_mirrored_so_that_drift_cancels() -> None:
    """A machine that gets slower by the block, even ever faster slower, treats both legs alike."""
    for seed in range(10):
        turns = abba(8, ["a", "b"], Random(seed))
        for power in (1, 2):
            sums = {leg: sum(n**power for n, turn in enumerate(turns) if turn.leg == leg) for leg in "ab"}
            assert sums["a"] == sums["b"]


def test_each_pair_has_each_leg_once() -> None:
    turns = abba(5, ["a", "b", "c"], Random(1))
    for pair in range(5):
        assert sorted(turn.leg for turn in turns if turn.pair == pair) == ["a", "b", "c"]


def test_chance_decides_which_leg_begins() -> None:
    first = Counter(abba(1, ["a", "b"], Random(seed))[0].leg for seed in range(200))
    assert 70 < first["a"] < 130
