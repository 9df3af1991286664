"""Percentiles of samples as they were, and how many samples one needs."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

NEEDED_SAMPLES = {50.0: 100, 95.0: 1_000, 99.0: 10_000, 99.9: 100_000}
"""Below this a percentile is not told: p99 of 1,000 samples spans p98.4 to p99.6 (rank interval, 95 %)."""

CONFIDENCE = 0.99
"""Of a pass of the SLO: MLPerf Inference, appendix "Early Stopping Criterion"."""

Samples = NDArray[np.int64] | NDArray[np.float64]


def percentile(samples: Samples, percent: float) -> float:
    """The smallest sample that at least ``percent`` of all do not exceed: always one that was measured, never above
    the greatest. Raises ValueError where there is none.

    >>> percentile(np.array([10, 20, 30, 40]), 50)
    20.0
    """
    if not len(samples):
        raise ValueError("no samples, no percentile")
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def is_told(samples: int, percent: float) -> bool:
    """Whether so many samples carry the percentile."""
    return samples >= next((needed for known, needed in NEEDED_SAMPLES.items() if percent <= known), math.inf)


def rank_interval(samples: int, percent: float, confidence: float = 0.95) -> tuple[float, float]:
    """Between which percentiles the estimate lies, whatever the distribution (normal approximation of the binomial).

    >>> [round(edge, 1) for edge in rank_interval(1000, 99)]
    [98.4, 99.6]
    """
    share = percent / 100
    z = normal_quantile((1 + confidence) / 2)
    half = z * math.sqrt(share * (1 - share) / samples)
    return max(0.0, 100 * (share - half)), min(100.0, 100 * (share + half))


def needed_for_slo(late: int, percent: float) -> int:
    """The fewest requests of which ``late`` may miss the limit and the percentile still holds with 99 % confidence.

    The smallest n with P(at most ``late`` of n miss | miss rate 1 - percent) <= 1 %.

    >>> [needed_for_slo(late, 99) for late in (0, 1, 5, 10)]
    [459, 662, 1307, 2010]
    """
    miss = 1 - percent / 100
    low, high = late + 1, late + 2
    while _at_most(late, high, miss) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _at_most(late, middle, miss) <= 1 - CONFIDENCE else (middle + 1, high)
    return low


def meets_slo(samples: Samples, limit: float, percent: float) -> bool:
    """Whether the samples show with 99 % confidence that ``percent`` of requests take no more than ``limit``."""
    late = int(np.sum(np.asarray(samples) > limit))
    return len(samples) >= needed_for_slo(late, percent)


def _at_most(late: int, requests: int, miss: float) -> float:
    """P(Binomial(requests, miss) <= late), summed in logarithms."""
    logs = [
        math.lgamma(requests + 1) - math.lgamma(k + 1) - math.lgamma(requests - k + 1)
        + k * math.log(miss) + (requests - k) * math.log1p(-miss)
        for k in range(late + 1)
    ]  # fmt: skip
    greatest = max(logs)
    return math.exp(greatest) * sum(math.exp(one - greatest) for one in logs)


def normal_quantile(share: float) -> float:
    """
    >>> round(normal_quantile(0.975), 4)
    1.96
    """
    return NormalDist().inv_cdf(share)
