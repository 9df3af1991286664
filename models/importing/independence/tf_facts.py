"""What the analysis knows of a tensor: whether, and along which axis, it keeps the rows of the batch apart.

A batch has `rows` rows (tf_sizes.ROWS), the same number in all inputs of a signature. Requests that are joined have the
same inner shapes, so every other size is the same in each of them.

    Shared   the same for every batch: weights, constants, and what follows from these and from inner sizes
    Counts   whole numbers that are known as polynomials in the number of rows, such as a shape; no other values
    Rows     one axis holds the rows: its part i follows from row i of the inputs alone
    Mixed    anything else, with the reason
    Listed   a TensorList whose number of entries is Shared; its entries are Shared or Rows
    Resource a variable or a table, which nothing writes to
    Nothing  on a branch that is never taken
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.importing.independence.tf_sizes import ONE, ROWS, Size

Shape = tuple[Size, ...]
Values = tuple[Size, ...]


class UnsureError(Exception):
    """The condition of an operation is not known to hold. The text says which, after "OPERATION (NODE)"."""


class MixesError(UnsureError):
    """The operation makes one row's result out of several rows: no doubt about it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """`shape` is None where not even the rank is known; `values` in row-major order, of small whole numbers only."""

    shape: Shape | None = None
    values: Values | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    shape: Shape
    values: Values


@dataclass(frozen=True, slots=True)
class Rows:
    """Axis `axis` has outer * rows * inner entries, and entry (o, row, i) of it, in this order, follows from that row.

    `varies`: it is certain to vary with what the inputs hold, as far as nothing that loses something came between.
    """

    shape: Shape
    axis: int
    outer: Size = ONE
    inner: Size = ONE
    varies: bool = True


@dataclass(frozen=True, slots=True)
class Mixed:
    """`certain`: rows do influence each other. `all_rows`: a truth that holds if it holds for each row by itself."""

    reason: str
    certain: bool = False
    all_rows: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """`element` is None where nothing was written; a dimension of `shape` is None where entries may differ in it."""

    element: Shared | Rows | None
    shape: tuple[Size | None, ...] | None
    length: Size | None


@dataclass(frozen=True, slots=True)
class Resource:
    shape: Shape | None = None
    table: bool = False


@dataclass(frozen=True, slots=True)
class Nothing:
    pass


Fact = Shared | Counts | Rows | Mixed | Listed | Resource | Nothing


def shared(shape: Sequence[Size] | None) -> Shared:
    """Raises UnsureError."""
    if shape is not None and any(size.rows for size in shape):
        raise UnsureError("makes a tensor whose size follows from the number of rows")
    return Shared(None if shape is None else tuple(shape))


def rows(shape: Sequence[Size], axis: int, outer: Size = ONE, inner: Size = ONE, varies: bool = True) -> Rows:
    """Raises UnsureError where another axis depends on the number of rows too, or the sizes do not fit."""
    others = [size for place, size in enumerate(shape) if place != axis]
    if any(size.rows for size in (*others, outer, inner)) or shape[axis] != outer * ROWS * inner:
        raise UnsureError("makes a tensor in which more than one dimension follows from the number of rows")
    return Rows(tuple(shape), axis, outer, inner, varies)


def reshaped(fact: Rows, shape: Sequence[Size], axis: int) -> Rows:
    """The same rows in another shape, whose axis `axis` holds them as they were held."""
    changed = list(shape)
    changed[axis] = fact.shape[fact.axis]
    return rows(changed, axis, fact.outer, fact.inner, fact.varies)


def numbers(array: Any) -> Shared | Counts:
    """Of an object array of sizes. Raises UnsureError where a number may have wrapped around."""
    values = tuple(array.ravel().tolist())
    shape = tuple(Size.of(size) for size in array.shape)
    if not all(value.small for value in values):
        raise UnsureError("computes a size too large for 32 bits")
    return Counts(shape, values) if any(value.rows for value in values) else Shared(shape, values)


def array_of(fact: Fact) -> Any | None:
    """The values as an object array of sizes, if they are known."""
    if not isinstance(fact, Shared | Counts) or fact.values is None or fact.shape is None:
        return None
    array = np.empty(len(fact.values), object)
    array[:] = fact.values
    return array.reshape([size.number for size in fact.shape])


def constants(fact: Fact) -> list[int] | None:
    """The values as plain numbers in row-major order, if all are known."""
    if not isinstance(fact, Shared) or fact.values is None:
        return None
    found = [value.number for value in fact.values]
    return None if None in found else [number for number in found if number is not None]


def without_values(fact: Shared) -> Shared:
    return replace(fact, values=None)


def same_layout(facts: Sequence[Rows]) -> bool:
    first = facts[0]
    return all((fact.outer, fact.inner) == (first.outer, first.inner) for fact in facts)
