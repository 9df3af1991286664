"""The ratio of two legs over pairs, with its interval: bootstrap over pairs, and Student's t to check it.

Over pairs and not over requests: requests of one block share what the machine did meanwhile, and a bootstrap over them
gives intervals that are far too narrow. Model: "A is faster than B by 5.5 % +/- 2.5 %, 95 %" (Kalibera and Jones,
arXiv 2007.10899).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from loadtest.analysis import student

RESAMPLES = 10_000
FEWEST_PAIRS = 8
"""Below this there is no verdict."""


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float

    def within(self, low: float, high: float) -> bool:
        return low <= self.low and self.high <= high

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high


@dataclass(frozen=True, slots=True)
class Ratio:
    """A over B: ``estimate`` is the geometric mean over pairs, ``logs`` the logarithm of each pair's ratio."""

    logs: tuple[float, ...]

    @property
    def pairs(self) -> int:
        return len(self.logs)

    @property
    def estimate(self) -> float:
        return math.exp(float(np.mean(self.logs)))

    @property
    def deviation(self) -> float:
        """Standard deviation of the pairs' logarithms."""
        return float(np.std(self.logs, ddof=1)) if self.pairs > 1 else math.inf

    @property
    def p_value(self) -> float:
        """Of the ratio being 1, by Student's t on the logarithms."""
        if self.pairs < 2:
            return 1.0
        error = self.deviation / math.sqrt(self.pairs)
        centre = float(np.mean(self.logs))
        if error == 0:
            return float(centre == 0)
        return student.two_sided_p(centre / error, self.pairs - 1)

    def bootstrap(self, confidence: float = 0.95, seed: int = 0) -> Interval:
        low, high = bca(np.array(self.logs), confidence, seed)
        return Interval(math.exp(low), math.exp(high))

    def student(self, confidence: float = 0.95) -> Interval:
        half = student.quantile(confidence, self.pairs - 1) * self.deviation / math.sqrt(self.pairs)
        centre = float(np.mean(self.logs))
        return Interval(math.exp(centre - half), math.exp(centre + half))


def paired(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """Of the same pairs in the same order. Raises ValueError where a value is not above 0."""
    if len(one) != len(other) or not one:
        raise ValueError("both legs need the same pairs, and at least one")
    if min(*one, *other) <= 0:
        raise ValueError("a ratio needs values above 0")
    return Ratio(tuple(math.log(a / b) for a, b in zip(one, other, strict=True)))


def bca(values: NDArray[np.float64], confidence: float, seed: int) -> tuple[float, float]:
    """Interval of the mean: bias-corrected and accelerated bootstrap (Efron 1987, DiCiccio and Efron 1996, eq. 2.3)."""
    count, centre = len(values), float(values.mean())
    if count < 2:
        return (-math.inf, math.inf)
    if float(np.ptp(values)) == 0:
        return (centre, centre)
    chosen = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    means = np.sort(values[chosen].mean(axis=1))
    normal = NormalDist()
    below = (np.sum(means < centre) + np.sum(means == centre) / 2) / RESAMPLES
    bias = normal.inv_cdf(float(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES)))
    left_out = (values.sum() - values) / (count - 1)
    apart = left_out.mean() - left_out
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))

    def edge(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        place = normal.cdf(bias + z / (1 - acceleration * z))
        return float(means[min(RESAMPLES - 1, max(0, math.floor(place * RESAMPLES)))])

    return edge((1 - confidence) / 2), edge((1 + confidence) / 2)


def pairs_needed(deviation: float, half_width: float, confidence: float = 0.95) -> int:
    """Pairs for an interval of the logarithm of +/- ``half_width``: the least n >= (t s / w)^2, t of n - 1 freedoms.

    >>> pairs_needed(0.03, 0.02)
    12
    """
    count = 2
    if not math.isfinite(deviation):
        return FEWEST_PAIRS
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    count = max(count, math.floor((z * deviation / half_width) ** 2))  # t is greater than z: no less can be enough
    while count < (student.quantile(confidence, count - 1) * deviation / half_width) ** 2:
        count += 1
    return count
