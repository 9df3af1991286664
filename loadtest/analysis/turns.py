"""In which order the blocks run: ABBA BAAB, so that what drifts falls on both legs alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Turn:
    """One block: the pair that it belongs to and the leg that it loads."""

    pair: int
    leg: str


def abba(pairs: int, legs: Sequence[str], random: Random) -> list[Turn]:
    """Each leg once a pair. Pairs are mirrored in the order ABBA BAAB, which cancels linear and quadratic drift.

    Which leg is A is left to chance, so that no leg owes anything to its name.

    >>> [turn.leg for turn in abba(4, ["a", "b"], Random(5))]
    ['a', 'b', 'b', 'a', 'b', 'a', 'a', 'b']
    """
    first = list(legs)
    random.shuffle(first)
    return [
        Turn(pair, leg) for pair in range(pairs) for leg in (first if pair % 4 in (0, 3) else list(reversed(first)))
    ]
