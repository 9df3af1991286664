"""Facts about load: Little's law, backlog, goodput and what a prediction costs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from loadtest.analysis import student

LITTLE_TOLERANCE = 0.05
SECONDS_PER_HOUR = 3600


def little_error(in_flight: float, per_second: float, mean_seconds: float) -> float:
    """|N - X R| / N: what is off where callers, throughput and time do not fit (Little 1961).

    >>> round(little_error(8, 400, 0.019), 3)
    0.05
    """
    return abs(in_flight - per_second * mean_seconds) / in_flight


def backlog_grows(times: NDArray[np.float64], in_flight: NDArray[np.float64]) -> bool:
    """Whether requests in flight grow with time: the slope's 95 % interval lies above 0.

    Neighbouring values depend on each other, so that the regression is over the means of ten parts of the time.
    """
    if len(times) < 20 or np.ptp(times) == 0:
        return False
    parts = [part for part in np.array_split(np.argsort(times), 10) if len(part)]
    x = np.array([times[part].mean() for part in parts])
    y = np.array([in_flight[part].mean() for part in parts])
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    left = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(float((left**2).sum()) / (len(x) - 2) / spread)
    return slope - student.quantile(0.95, len(x) - 2) * error > 0 and slope * float(np.ptp(x)) > 1


def in_flight_at_sends(sent: NDArray[np.int64], ended: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many requests were under way at each time of ``sent``, itself included."""
    begun = np.searchsorted(np.sort(sent), sent, side="right")
    return (begun - np.searchsorted(np.sort(ended), sent, side="right")).astype(np.float64)


def goodput(latencies: NDArray[np.float64], failed: NDArray[np.bool_], limit: float, seconds: float) -> float:
    """Requests per second that were answered rightly within the limit."""
    return float(np.sum((latencies <= limit) & ~failed)) / seconds


def cost_per_million(price_per_hour: float, per_second: float, rows: int = 1) -> float:
    """
    >>> cost_per_million(3.6, 1000)
    1.0
    """
    return 1e6 * price_per_hour / (SECONDS_PER_HOUR * per_second * rows)
