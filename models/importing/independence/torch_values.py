"""What is known of a value in a PyTorch graph, for every batch at once.

Two runs are compared: rows answered alone, and the same rows joined. Everything but the rows is the same in both, also
the free sizes other than the number of rows. A value is one of:

    Tensor    without a `RowDim`: the same tensor in both runs. With one: joined, it is the concatenation of what it is
              for each row alone, along that axis. No tensor has two.
    Mixed     a tensor in which rows have met, or may have; the reason says where
    Counted   a tensor of rank 0 that holds a number derived from sizes (traced graphs compute with them)
    Known, Number, Fixed, Varies   Python scalars: a constant, an integer derived from sizes, a scalar that is the same
              in both runs, and one that may not be
    Items, Entries, Tupled, Instance   lists, dicts, tuples, and modules

An axis of rows may be folded with others: `RowDim(outer, inner)` has outer * rows * inner places, rows in the middle,
as `view` makes them of neighbouring axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, cast


class DoubtError(Exception):
    """The analysis ends: something is not known to keep rows apart. The text says why."""


class MixesError(Exception):
    """An operation's result mixes rows. `certain` where it does so whatever its inputs are."""

    def __init__(self, reason: str, *, certain: bool = False) -> None:
        super().__init__(reason)
        self.certain = certain


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """An integer that is the same in both runs. `region` is the branch or loop pass that made it, 0 outside of any."""

    name: str
    region: int = 0


ANY = Symbol("?", -1)
"""Stands for an integer that is another one each time: see `forgotten` and `recalled`."""


@dataclass(frozen=True, slots=True)
class Size:
    """The product of an integer, of symbols, and of the number of rows to the power of `rows`."""

    factor: int = 1
    symbols: tuple[Symbol, ...] = ()
    rows: int = 0

    def times(self, other: Size) -> Size:
        factor = self.factor * other.factor
        if factor == 0:
            return Size(0)
        return Size(factor, tuple(sorted(self.symbols + other.symbols)), self.rows + other.rows)

    def over(self, other: Size) -> Size | None:
        """The exact quotient, or None where it is not known to be an integer."""
        if other.factor == 0 or self.factor % other.factor or self.rows < other.rows:
            return None
        rest = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in rest:
                return None
            rest.remove(symbol)
        return Size(self.factor // other.factor, tuple(rest), self.rows - other.rows)

    @property
    def known(self) -> int | None:
        return None if self.symbols or self.rows else self.factor

    def __str__(self) -> str:
        names = [symbol.name for symbol in self.symbols] + ["rows"] * self.rows
        return "*".join(names if names and self.factor == 1 else [str(self.factor), *names])


ONE, ROWS = Size(1), Size(rows=1)


def product(sizes: Sequence[Size]) -> Size:
    result = ONE
    for size in sizes:
        result = result.times(size)
    return result


@dataclass(frozen=True, slots=True)
class RowDim:
    outer: Size = ONE
    inner: Size = ONE

    @property
    def size(self) -> Size:
        return ROWS.times(self.outer).times(self.inner)

    def __str__(self) -> str:
        return str(self.size)


Dim = Size | RowDim
Dims = tuple[Dim, ...]
NAMES = count(1)


@dataclass(frozen=True, slots=True)
class Tensor:
    """`kind` is i (integers), b (truth values), f (others) or empty where it is not known.

    `writable` is false where writing in place would reach the model's own state, or memory that is shared in a way
    which may depend on the number of rows. `memory` names what it may share memory with. `uniform` is true where all
    rows are equal whatever the inputs are.
    """

    dims: Dims
    kind: str = ""
    writable: bool = True
    uniform: bool = False
    memory: frozenset[int] = field(default_factory=lambda: frozenset({next(NAMES)}), compare=False)

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def row_axis(self) -> int | None:
        return next((axis for axis, dim in enumerate(self.dims) if isinstance(dim, RowDim)), None)

    @property
    def same_for_all(self) -> bool:
        """Whether it says the same of every row: it has no rows, or all are equal."""
        return self.row_axis is None or self.uniform

    def viewed(self, dims: Sequence[Dim], kind: str | None = None) -> Tensor:
        """Another view of the same memory."""
        return replace(self, dims=tuple(dims), kind=self.kind if kind is None else kind)

    def perhaps_copied(self, dims: Sequence[Dim]) -> Tensor:
        """A view or a copy, depending on strides and so, perhaps, on the number of rows."""
        return replace(self, dims=tuple(dims), writable=False)

    def __str__(self) -> str:
        return "[" + ", ".join(map(str, self.dims)) + "]"


@dataclass(frozen=True, slots=True)
class Mixed:
    reason: str
    certain: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    value: Any


@dataclass(frozen=True, slots=True)
class Number:
    size: Size


@dataclass(frozen=True, slots=True)
class Fixed:
    """A scalar of any type. `truthy`: a text that is not empty, or the length of one."""

    truthy: bool = False


@dataclass(frozen=True, slots=True)
class Varies:
    reason: str


Scalar = Known | Number | Fixed | Varies
NONE = Known(None)


@dataclass(frozen=True, slots=True)
class Counted:
    number: Scalar


@dataclass(frozen=True, slots=True)
class Nothing:
    """The value of a path that raises."""


@dataclass(slots=True, eq=False)
class Items:
    """A list. Where its length is not known, `values` is None and `each` stands for every item (None: still empty)."""

    values: list[Value] | None
    each: Value | None = None
    region: int = 0
    writable: bool = True


@dataclass(slots=True, eq=False)
class Entries:
    """A dict, its keys known."""

    values: dict[Any, Value]
    region: int = 0
    writable: bool = True


@dataclass(frozen=True, slots=True)
class Tupled:
    values: tuple[Value, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A module, or another object that the graph reads attributes of."""

    target: Any


@dataclass(frozen=True, slots=True)
class Texts:
    """The `List[str]` of an input: a text for each row."""


Value = (
    Tensor | Mixed | Known | Number | Fixed | Varies | Counted | Nothing | Items | Entries | Tupled | Instance | Texts
)
SCALARS = (Known, Number, Fixed, Varies)


class Regions:
    """Branches and loops of which it is not known which way, or how often, they are run: the innermost is the tip."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open = [0]
        self.shared: set[int] = set()
        """Memory that something is a view or a copy of, perhaps by the number of rows: it must not be written."""
        self.changes = 0
        """Counts what was learnt about lists that are filled in such a region."""

    @property
    def tip(self) -> int:
        return self._open[-1]

    def enter(self) -> None:
        self._open.append(next(self._numbers))

    def leave(self) -> None:
        self._open.pop()

    def fresh(self) -> Size:
        return Size(1, (Symbol(f"n{next(NAMES)}", self.tip),))


def derived(name: str, *parts: object) -> Size:
    """An integer that follows from others: the same name and parts, the same integer."""
    regions = [symbol.region for part in parts if isinstance(part, Size) for symbol in part.symbols]
    return Size(1, (Symbol(f"{name}({','.join(map(str, parts))})", max(regions, default=0)),))


def number(size: Size) -> Scalar:
    return Number(size) if size.known is None else Known(size.known)


def size_of(value: Scalar, regions: Regions) -> Size:
    """Raises DoubtError where it is no integer that is the same in both runs, or a multiple of the rows."""
    if isinstance(value, Known) and isinstance(value.value, (int, float)) and int(value.value) == value.value:
        return Size(int(value.value))
    if isinstance(value, Number):
        return value.size
    if isinstance(value, Fixed):
        return regions.fresh()
    raise DoubtError(value.reason if isinstance(value, Varies) else f"{value} is no size")


def leaves(value: Value) -> Iterator[Value]:
    """What a value holds, however deep."""
    if isinstance(value, Tupled):
        parts: Sequence[Value] = value.values
    elif isinstance(value, Items):
        parts = value.values if value.values is not None else [value.each] if value.each is not None else []
    elif isinstance(value, Entries):
        parts = list(value.values.values())
    else:
        yield value
        return
    for part in parts:
        yield from leaves(part)


def over_sizes(value: Value, change: Any) -> Value:
    """The value with each size in it changed by `change(size) -> Size`."""
    if isinstance(value, Tensor):
        dims = [
            RowDim(change(dim.outer), change(dim.inner)) if isinstance(dim, RowDim) else change(dim)
            for dim in value.dims
        ]
        return replace(value, dims=tuple(dims))
    if isinstance(value, Number):
        return number(change(value.size))
    if isinstance(value, Counted):
        return Counted(cast(Scalar, over_sizes(value.number, change)))
    if isinstance(value, Tupled):
        return replace(value, values=tuple(over_sizes(part, change) for part in value.values))
    return value


def forgotten(value: Value, tip: int) -> Value:
    """What stays known of a value once the region that made it is left: the sizes of one pass are not the next one's.

    Lists are changed themselves, as others may hold them too.
    """

    def change(size: Size) -> Size:
        inner = any(symbol.region > tip or symbol is ANY or symbol == ANY for symbol in size.symbols)
        return Size(1, (ANY,), size.rows) if inner else size

    if isinstance(value, Items):
        if value.values is not None:
            value.values = [forgotten(part, tip) for part in value.values]
        elif value.each is not None:
            value.each = forgotten(value.each, tip)
        return value
    if isinstance(value, Entries):
        value.values = {key: forgotten(part, tip) for key, part in value.values.items()}
        return value
    if isinstance(value, Tupled):
        return replace(value, values=tuple(forgotten(part, tip) for part in value.values))
    return over_sizes(value, change)


def recalled(value: Value, regions: Regions) -> Value:
    """A value as it is read: a forgotten size is some integer, equal to no other."""

    def change(size: Size) -> Size:
        if ANY not in size.symbols:
            return size
        return replace(regions.fresh(), rows=size.rows)

    return over_sizes(value, change)


def same(one: Value, other: Value) -> bool:
    """Whether as much is known of both. Lists are compared by what they hold."""
    if isinstance(one, Items) and isinstance(other, Items):
        if one is other:
            return True
        if one.values is None or other.values is None:
            if one.values is not None or other.values is not None:
                return False
            return one.each is other.each or (
                one.each is not None and other.each is not None and same(one.each, other.each)
            )
        return len(one.values) == len(other.values) and all(map(same, one.values, other.values))
    if isinstance(one, Tupled) and isinstance(other, Tupled):
        return len(one.values) == len(other.values) and all(map(same, one.values, other.values))
    if isinstance(one, Entries) and isinstance(other, Entries):
        return list(one.values) == list(other.values) and all(
            same(one.values[key], other.values[key]) for key in one.values
        )
    return type(one) is type(other) and same_scalar(one, other)


def same_scalar(one: Value, other: Value) -> bool:
    if isinstance(one, Known) and isinstance(other, Known):
        if type(one.value) is not type(other.value):
            return False
        if isinstance(one.value, float) and math.isnan(one.value):
            return math.isnan(other.value)
        return bool(one.value == other.value)
    return one == other


def joined(one: Value, other: Value) -> Value:
    """What is known of a value that is one of two, the same one in both runs."""
    if isinstance(one, Nothing):
        return other
    if isinstance(other, Nothing) or one is other:
        return one
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return joined_tensors(one, other)
    if isinstance(one, Mixed) or isinstance(other, Mixed):
        found = one if isinstance(one, Mixed) else other
        return replace(found, certain=False) if isinstance(found, Mixed) else found
    if isinstance(one, SCALARS) and isinstance(other, SCALARS):
        return joined_scalars(one, other)
    if isinstance(one, Tupled) and isinstance(other, Tupled) and len(one.values) == len(other.values):
        return replace(one, values=tuple(map(joined, one.values, other.values)))
    if isinstance(one, Items) and isinstance(other, Items):
        return joined_lists(one, other)
    if same(one, other) and not isinstance(one, Entries):
        return one
    raise DoubtError("two paths give different kinds of value")


def joined_tensors(one: Tensor, other: Tensor) -> Value:
    if one.rank != other.rank or one.row_axis != other.row_axis:
        return Mixed(f"two paths give tensors of different form, {one} and {other}")
    dims: list[Dim] = []
    for a, b in zip(one.dims, other.dims, strict=True):
        if isinstance(a, Size) and isinstance(b, Size):
            dims.append(a if a == b else Size(1, (ANY,)))
        elif a == b:
            dims.append(a)
        else:
            return Mixed(f"two paths give tensors of different form, {one} and {other}")
    return Tensor(
        tuple(dims),
        one.kind if one.kind == other.kind else "",
        one.writable and other.writable,
        one.uniform and other.uniform,
        one.memory | other.memory,
    )


def joined_scalars(one: Scalar, other: Scalar) -> Scalar:
    if isinstance(one, Varies):
        return one
    if isinstance(other, Varies) or same_scalar(one, other):
        return other
    for value in (one, other):
        if isinstance(value, Number) and value.size.rows:
            return Varies("a number may or may not follow from the number of rows")
    if all(
        isinstance(value, Number) or (isinstance(value, Known) and type(value.value) is int) for value in (one, other)
    ):
        return Number(Size(1, (ANY,)))
    return Fixed(is_true(one) and is_true(other))


def is_true(value: Scalar) -> bool:
    return (
        value.truthy
        if isinstance(value, Fixed)
        else isinstance(value, Known) and isinstance(value.value, str) and bool(value.value)
    )


def joined_lists(one: Items, other: Items) -> Items:
    """Neither may be written any more, since what is written to one of them would not show in the other."""
    one.writable = other.writable = False
    if one.values is not None and other.values is not None and len(one.values) == len(other.values):
        return Items(list(map(joined, one.values, other.values)), writable=False)
    each: Value | None = None
    for part in (one, other):
        each = joined_optional(each, summary(part))
    return Items(None, each, writable=False)


def joined_optional(one: Value | None, other: Value | None) -> Value | None:
    if one is None or other is None:
        return one if other is None else other
    return joined(one, other)


def summary(items: Items) -> Value | None:
    """One value that stands for each of a list's."""
    if items.values is None:
        return items.each
    each: Value | None = None
    for value in items.values:
        each = joined_optional(each, value)
    return each
