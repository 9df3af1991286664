"""A message as a tree of choices: what a generator drew, by the path at which it drew it.

A generator asks a `Draw` for numbers and picks, each under a path such as ``inputs.0.count``. What the genome holds is
given, anything else is drawn anew and noted. So every generator has the same mutations, and a subtree of one genome
fits into another one of the same generator.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

Genome = dict[str, int]

_T = TypeVar("_T")
_SMALL = 4
#: In a genome: what it does not hold is drawn as great as it may be, mostly.
GREAT = "great"


class Draw:
    """Choices for one message. ``made`` is the whole genome of it afterwards."""

    def __init__(self, genome: Mapping[str, int], dice: random.Random) -> None:
        self.made: Genome = {GREAT: genome[GREAT]} if GREAT in genome else {}
        self._genome = genome
        self._dice = dice

    def number(self, path: str, most: int, least: int = 0) -> int:
        """From ``least`` to ``most``. A new one is mostly small, or mostly great (`GREAT`)."""
        most, value = max(most, least), self._genome.get(path)
        if value is None:
            value = self._new(most, least)
        self.made[path] = value = max(least, min(value, most))
        return value

    def pick(self, path: str, options: Sequence[_T]) -> _T:
        value = self._genome.get(path)
        if value is None:
            value = self._dice.randrange(len(options))
        self.made[path] = value = value % len(options)
        return options[value]

    def seldom(self, path: str) -> bool:
        """For what makes most messages refused."""
        value = self._genome.get(path)
        if value is None:
            value = int(self._dice.random() < 0.1)
        self.made[path] = value = value % 2
        return bool(value)

    def _new(self, most: int, least: int) -> int:
        if self._genome.get(GREAT):
            return most >> self._dice.choice((0, 0, 0, 1, 3, most.bit_length()))
        if self._dice.random() < 0.6:
            return self._dice.randint(least, min(most, least + _SMALL))
        return int(2 ** self._dice.uniform(0, max(most, 1).bit_length()))


def mutated(genome: Genome, other: Genome, dice: random.Random) -> Genome:
    """A copy with one to four changes. ``other`` is of the same generator, and gives subtrees."""
    found = dict(genome)
    for _ in range(dice.choice((1, 1, 2, 4))):
        if not found:
            return found
        path = dice.choice(list(found))
        dice.choice(_CHANGES)(found, path, other, dice)
    return found


def _grow(found: Genome, path: str, _: Genome, dice: random.Random) -> None:
    found[path] += dice.choice((-1, 1, 1, 7, -7, 64))


def _double(found: Genome, path: str, _: Genome, dice: random.Random) -> None:
    found[path] *= dice.choice((2, 2, 16, 1024))


def _halve(found: Genome, path: str, _: Genome, dice: random.Random) -> None:
    found[path] //= dice.choice((2, 3, 16))


def _replace(found: Genome, path: str, _: Genome, dice: random.Random) -> None:
    """It is drawn anew, and so is what hangs on it."""
    for name in [name for name in found if name.startswith(path)]:
        del found[name]


def _swap(found: Genome, path: str, _: Genome, dice: random.Random) -> None:
    """Half of one number for twice another: fewer, larger elements, or more of smaller ones."""
    other = dice.choice(list(found))
    if other != path:
        found[path], found[other] = found[path] * 2, found[other] // 2


def _split(found: Genome, path: str, _: Genome, dice: random.Random) -> None:
    """One subtree once more in the place of its neighbour, and half of its numbers in each."""
    head, _, tail = path.partition(".0.")
    if tail:
        for name in [name for name in found if name.startswith(f"{head}.0.")]:
            found[name.replace(f"{head}.0.", f"{head}.1.", 1)] = found[name]
        found[path] //= 2


def _splice(found: Genome, path: str, other: Genome, dice: random.Random) -> None:
    prefix = path[: dice.randrange(len(path)) + 1]
    found.update({name: value for name, value in other.items() if name.startswith(prefix)})


_CHANGES = (_grow, _double, _double, _halve, _replace, _replace, _swap, _split, _splice, _splice)
