"""What a ratio says at a practical margin, and what is left of it when many cells are looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadtest.analysis.ratios import FEWEST_PAIRS, Interval, Ratio, pairs_needed

MARGIN = 0.03
ALPHA = 0.05
MOST_PAIRS_TOLD = 10_000


class Kind(StrEnum):
    FASTER = "faster"
    SLOWER = "slower"
    SMALL = "different but small"
    """Surely by less than the margin."""
    UNSURE = "different, size unsure"
    """Surely not the same; the interval holds differences below the margin and beyond it."""
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    INSUFFICIENT = "insufficient"
    """Fewer than 8 pairs."""

    @property
    def is_difference(self) -> bool:
        return self in (Kind.FASTER, Kind.SLOWER, Kind.SMALL, Kind.UNSURE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of the first leg against the second. ``more_pairs`` is about how many are missing for a surer one."""

    kind: Kind
    ratio: float
    interval: Interval
    p_value: float
    more_pairs: int = 0


def judge(
    ratio: Ratio, *, smaller_is_better: bool = True, margin: float = MARGIN, alpha: float = ALPHA, seed: int = 0
) -> Verdict:
    """A verdict at the confidence 1 - ``alpha``.

    A difference is called only where the bootstrap's interval and Student's t both exclude it being none: over few
    pairs the bootstrap alone is too sure. Equivalence is two one-sided tests: the 90 % interval lies inside the margin
    (Schuirmann 1987).
    """
    interval = ratio.bootstrap(1 - ALPHA, seed)
    if ratio.pairs < FEWEST_PAIRS:
        return Verdict(Kind.INSUFFICIENT, ratio.estimate, interval, ratio.p_value, FEWEST_PAIRS - ratio.pairs)
    wide = hull(ratio.bootstrap(1 - alpha, seed), ratio.student(1 - alpha))
    inner = hull(ratio.bootstrap(1 - 2 * ALPHA, seed), ratio.student(1 - 2 * ALPHA))
    kind = _kind(wide, inner, margin, smaller_is_better)
    missing = missing_pairs(ratio, margin, alpha) if kind in (Kind.INCONCLUSIVE, Kind.UNSURE) else 0
    return Verdict(kind, ratio.estimate, interval, ratio.p_value, missing)


def _kind(wide: Interval, inner: Interval, margin: float, smaller_is_better: bool) -> Kind:
    least, most = 1 / (1 + margin), 1 + margin
    below, above = wide.high < least, wide.low > most
    if below or above:
        return Kind.FASTER if below == smaller_is_better else Kind.SLOWER
    if wide.excludes(1):
        return Kind.SMALL if wide.within(least, most) else Kind.UNSURE
    return Kind.EQUIVALENT if inner.within(least, most) else Kind.INCONCLUSIVE


def hull(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.low, other.low), max(one.high, other.high))


def missing_pairs(ratio: Ratio, margin: float, alpha: float = ALPHA) -> int:
    """About how many more until the interval says something, if estimate and spread stay as they are.

    It need not be narrower than the estimate is far from the margin; near the margin, or within it, the margin is the
    measure.
    """
    narrow = math.log1p(margin)
    wanted = pairs_needed(ratio.deviation, max(narrow, abs(math.log(ratio.estimate)) - narrow), 1 - alpha)
    return min(MOST_PAIRS_TOLD, max(1, wanted - ratio.pairs))


def judge_all(
    ratios: Sequence[Ratio],
    *,
    smaller_is_better: Sequence[bool],
    margin: float = MARGIN,
    alpha: float = ALPHA,
    seed: int = 0,
) -> list[Verdict]:
    """Of several cells looked at together, by Holm's correction: ``alpha`` is the risk of any false difference."""
    levels = holm([ratio.p_value for ratio in ratios], alpha)
    return [
        judge(ratio, smaller_is_better=smaller, margin=margin, alpha=level, seed=seed)
        for ratio, smaller, level in zip(ratios, smaller_is_better, levels, strict=True)
    ]


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The level at which each cell is judged (Holm 1979): alpha / m for the smallest p, alpha / (m - 1) for the next...

    Once one is not below its level, those after it keep that level, at which none of them can be below it either.

    >>> holm([0.001, 0.03, 0.04])
    [0.016666666666666666, 0.025, 0.025]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    levels = [alpha] * len(p_values)
    held: float | None = None
    for rank, place in enumerate(order):
        level = held or alpha / (len(p_values) - rank)
        levels[place] = level
        if held is None and p_values[place] > level:
            held = level
    return levels


def sentence(verdict: Verdict, one: str, other: str, what: str, confidence: float = 1 - ALPHA) -> str:
    """
    >>> sentence(Verdict(Kind.FASTER, 0.8, Interval(0.75, 0.85), 0.001), "pytorch", "tensorflow", "p50")
    "pytorch is faster than tensorflow in p50: 0.800 times tensorflow's, 95 % interval 0.750 to 0.850."
    """
    low, high = verdict.interval.low, verdict.interval.high
    known = f"{verdict.ratio:.3f} times {other}'s, {100 * confidence:.0f} % interval {low:.3f} to {high:.3f}"
    match verdict.kind:
        case Kind.FASTER | Kind.SLOWER:
            return f"{one} is {verdict.kind} than {other} in {what}: {known}."
        case Kind.SMALL:
            return f"{one} and {other} differ in {what}, by less than matters: {known}."
        case Kind.UNSURE:
            return (
                f"{one} and {other} differ in {what}, and whether by as much as matters is not sure: {known}; "
                f"about {verdict.more_pairs} more pairs are needed."
            )
        case Kind.EQUIVALENT:
            return f"{one} and {other} are equivalent in {what}: {known}."
        case Kind.INSUFFICIENT:
            return f"{verdict.more_pairs} more pairs are needed before anything is said of {what}."
    return f"Inconclusive in {what}: {one}'s is {known}; about {verdict.more_pairs} more pairs are needed."
