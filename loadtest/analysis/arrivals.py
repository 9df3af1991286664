"""When each request of a block is sent, and which payload it carries: the same for both legs of a pair, by seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray

SECOND = 1_000_000_000

Times = NDArray[np.int64]


def generator(seed: int, cell: str, pair: int, worker: int) -> Random:
    """Both legs of a pair draw from the same numbers; nothing else does.

    >>> generator(1, "convnet", 0, 0).random() == generator(1, "convnet", 0, 0).random()
    True
    """
    return Random(f"{seed}:{cell}:{pair}:{worker}")  # noqa: S311 - a schedule is no secret


def poisson(random: Random, per_second: float, seconds: float) -> Times:
    """Nanoseconds from the block's start, ascending, all below ``seconds``: gaps of ``-ln(1 - U) / rate``.

    A worker of W takes a W-th of the rate: a superposition of Poisson processes is one.
    """
    if not per_second > 0:
        raise ValueError(f"a rate must be above 0, not {per_second:g}")
    times: list[int] = []
    now = 0.0
    while (now := now - math.log(1 - random.random()) / per_second) < seconds:
        times.append(int(now * SECOND))
    return np.array(times, np.int64)


def varying(random: Random, rate: Callable[[float], float], most: float, seconds: float) -> Times:
    """Poisson arrivals whose rate changes with time, by thinning (Lewis and Shedler 1979).

    ``rate`` gives requests per second at a time in seconds; ``most`` is at least its greatest value.
    """
    candidates = poisson(random, most, seconds)
    kept = [time for time in candidates.tolist() if random.random() * most < rate(time / SECOND)]
    return np.array(kept, np.int64)


def payload_order(random: Random, requests: int, payloads: int) -> Times:
    """Which of the prepared payloads each request carries."""
    return np.array([random.randrange(payloads) for _ in range(requests)], np.int64)
