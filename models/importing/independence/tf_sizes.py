"""Sizes of dimensions as polynomials: what is known of a shape before a request arrives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering

LARGEST = 2**31 - 1
LARGEST_FACTOR = 2**22
MOST_TERMS, LONGEST_NAME = 500, 4_000


@total_ordering
@dataclass(frozen=True, slots=True)
class Atom:
    """A size that is not known now. One name always means one number, within one call of the model.

    `rows`: it may depend on how many rows a batch has. All others are the same for all requests of one inner shape.
    """

    name: str
    rows: bool = False

    def __lt__(self, other: Atom) -> bool:
        return self.name < other.name


Monomial = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """A polynomial over atoms with integer coefficients. Two that are equal are equal whatever the atoms are."""

    terms: tuple[tuple[Monomial, int], ...]

    @classmethod
    def of(cls, value: int | Atom) -> Size:
        if isinstance(value, Atom):
            return cls((((value,), 1),))
        return cls((((), int(value)),) if value else ())

    @classmethod
    def collected(cls, terms: Iterable[tuple[Monomial, int]]) -> Size:
        total: dict[Monomial, int] = {}
        for monomial, factor in terms:
            total[monomial] = total.get(monomial, 0) + factor
        if len(total) > MOST_TERMS:
            raise OverflowError("a size is made of too many others")
        return cls(tuple(sorted((monomial, factor) for monomial, factor in total.items() if factor)))

    @property
    def number(self) -> int | None:
        """Its value, if that is known."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    @property
    def atoms(self) -> set[Atom]:
        return {atom for monomial, _ in self.terms for atom in monomial}

    @property
    def rows(self) -> bool:
        return any(atom.rows for atom in self.atoms)

    @property
    def small(self) -> bool:
        """Whether int32 holds it, for batches of some hundred rows: larger numbers may wrap around on the way."""
        return all(abs(factor) <= (LARGEST_FACTOR if monomial else LARGEST) for monomial, factor in self.terms)

    def __add__(self, other: Size) -> Size:
        return Size.collected((*self.terms, *other.terms))

    def __neg__(self) -> Size:
        return Size(tuple((monomial, -factor) for monomial, factor in self.terms))

    def __sub__(self, other: Size) -> Size:
        return self + -other

    def __mul__(self, other: Size) -> Size:
        return Size.collected(
            (tuple(sorted(left + right)), a * b) for left, a in self.terms for right, b in other.terms
        )

    def over(self, divisor: Size) -> Size | None:
        """The exact quotient by a polynomial, if there is one that can be seen."""
        if not divisor.terms:
            return None
        if not self.terms:
            return self
        if len(divisor.terms) == 1:
            parts = [_term_over(term, divisor.terms[0]) for term in self.terms]
            found = [part for part in parts if part is not None]
            return Size.collected(found) if len(found) == len(parts) else None
        first = _term_over(self.terms[0], divisor.terms[0])
        if first is None:
            return None
        quotient = Size.collected([first])
        return quotient if quotient * divisor == self else None

    def __str__(self) -> str:
        if self.number is not None:
            return str(self.number)
        return "+".join("*".join([*([str(k)] if k != 1 or not m else []), *(a.name for a in m)]) for m, k in self.terms)


def _term_over(term: tuple[Monomial, int], divisor: tuple[Monomial, int]) -> tuple[Monomial, int] | None:
    left = list(term[0])
    for atom in divisor[0]:
        if atom not in left:
            return None
        left.remove(atom)
    quotient, rest = divmod(term[1], divisor[1])
    return None if rest else (tuple(left), quotient)


#: How many rows the batch has.
ROWS = Size.of(Atom("rows", rows=True))
ONE = Size.of(1)
ZERO = Size.of(0)


def product(sizes: Iterable[Size]) -> Size:
    total = ONE
    for size in sizes:
        total = total * size
    return total


def derived(kind: str, *sizes: Size) -> Size:
    """The result of a function that is no polynomial: equal functions of equal sizes are equal."""
    name = f"{kind}({','.join(map(str, sizes))})"
    if len(name) > LONGEST_NAME:
        raise OverflowError("a size is made of too many others")
    return Size.of(Atom(name, rows=any(size.rows for size in sizes)))
