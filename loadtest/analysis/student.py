"""Student's t distribution, in so few lines that no statistics package is needed."""

from __future__ import annotations

import math

_ITERATIONS, _TINY, _CLOSE = 300, 1e-300, 1e-14


def two_sided_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) = I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2) (Abramowitz and Stegun 26.7.1).

    >>> round(two_sided_p(2.262, 9), 3)
    0.05
    """
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def quantile(confidence: float, freedom: int) -> float:
    """The t that |T| stays below with this probability.

    >>> round(quantile(0.95, 9), 3)
    2.262
    """
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > 1 - confidence else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularised, by Lentz's continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    result, c, d = 1.0, 1.0, 0.0
    for step in range(_ITERATIONS):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        d = 1 / ((1 + term * d) or _TINY)
        c = (1 + term / c) or _TINY
        result *= c * d
        if abs(1 - c * d) < _CLOSE and step:
            break
    return front * (result - 1) / a
