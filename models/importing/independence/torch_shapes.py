"""Where the axis of rows goes: broadcasting, views, products. Raises MixesError and DoubtError as torch_values says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from models.importing.independence.torch_values import (
    ONE,
    ROWS,
    Dim,
    Dims,
    DoubtError,
    MixesError,
    RowDim,
    Size,
    Tensor,
    derived,
    product,
)


def fresh(dims: Sequence[Dim], *parts: Tensor | None, kind: str = "") -> Tensor:
    """A new tensor computed from `parts`."""
    return Tensor(tuple(dims), kind, uniform=all(part.same_for_all for part in parts if part is not None))


def broadcast(*shapes: Dims) -> Dims:
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = []
    for place in range(rank, 0, -1):
        result.append(met([shape[-place] for shape in shapes if len(shape) >= place]))
    return checked(result)


def met(dims: Sequence[Dim]) -> Dim:
    rows = [dim for dim in dims if isinstance(dim, RowDim)]
    sizes = [dim for dim in dims if isinstance(dim, Size) and dim != ONE]
    if not rows:
        return together(sizes)
    if sizes or any(dim != rows[0] for dim in rows):
        sides = ", ".join(str(dim) for dim in dict.fromkeys([*rows, *sizes]))
        raise MixesError(f"the axis of rows is broadcast against another one: {sides}")
    return rows[0]


def together(sizes: Sequence[Size]) -> Size:
    different = list(dict.fromkeys(sizes))
    # The start of a constant table, as long as another size: where both fit, they are equal.
    different = [one for one in different if not any(is_at_most(one, other) for other in different)]
    if len(different) < 2:
        return different[0] if different else ONE
    if all(size.known is not None for size in different):
        raise DoubtError(f"sizes {', '.join(map(str, different))} cannot be broadcast")
    return derived("broadcast", *sorted(different, key=str))


def is_at_most(one: Size, other: Size) -> bool:
    """Whether it is the lesser of `other` and a constant, which is not 1."""
    names = [symbol.name for symbol in one.symbols]
    return one.factor == 1 and len(names) == 1 and names[0].startswith("min(") and names[0].endswith(f",{other})")


def checked(dims: Sequence[Dim]) -> Dims:
    """Raises MixesError where two axes hold rows: each row meets each other one."""
    if sum(isinstance(dim, RowDim) for dim in dims) > 1:
        raise MixesError(f"each row meets each other row: the result is [{', '.join(map(str, dims))}]", certain=True)
    return tuple(dims)


def axis_of(axis: int, rank: int) -> int:
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise DoubtError(f"there is no axis {axis} in {rank} dimensions")
    return axis % max(rank, 1)


def size(dim: Dim) -> Size:
    return dim.size if isinstance(dim, RowDim) else dim


def fixed(dims: Sequence[Dim], what: str, *, certain: bool = False) -> tuple[Size, ...]:
    """Raises MixesError where rows are among them."""
    found = []
    for dim in dims:
        if isinstance(dim, RowDim):
            raise MixesError(f"{what} is the axis of rows", certain=certain)
        found.append(dim)
    return tuple(found)


def dims_of(sizes: Sequence[Size]) -> Dims:
    """Of a tensor of equal rows that is made in a size: the number of rows is a factor of one of its sizes."""
    dims: list[Dim] = []
    for one in sizes:
        if one.rows > 1:
            raise DoubtError("a size follows from the square of the number of rows")
        dims.append(RowDim(ONE, Size(one.factor, one.symbols)) if one.rows else one)
    if sum(isinstance(dim, RowDim) for dim in dims) > 1:
        raise DoubtError("a tensor is made with the number of rows in two of its sizes")
    return tuple(dims)


def reshaped(source: Dims, target: Sequence[Size | None]) -> Dims:
    """`target` has None for the size that follows from the others.

    Safe where as much lies before the rows, and as much of each row behind them, as before: the axis of rows is then
    cut from the same places of memory.
    """
    where = next((axis for axis, dim in enumerate(source) if isinstance(dim, RowDim)), None)
    if where is None:
        return reshaped_without_rows(source, target)
    rows = cast(RowDim, source[where])
    before = product([size(dim) for dim in source[:where]]).times(rows.outer)
    behind = rows.inner.times(product([size(dim) for dim in source[where + 1 :]]))
    sizes = inferred(before.times(ROWS).times(behind), target)
    places = [place for place, one in enumerate(sizes) if one.rows]
    shape = f"[{', '.join(map(str, source))}] is made [{', '.join(map(str, sizes))}]"
    if before.factor == 0 or behind.factor == 0 or len(places) != 1:
        raise MixesError(f"{shape}, which is not known to keep rows apart")
    [place] = places
    outer = before.over(product(sizes[:place]))
    inner = behind.over(product(sizes[place + 1 :]))
    if outer is None or inner is None or ROWS.times(outer).times(inner) != sizes[place]:
        raise MixesError(f"{shape}, which is not known to keep rows apart")
    return (*sizes[:place], RowDim(outer, inner), *sizes[place + 1 :])


def inferred(total: Size, target: Sequence[Size | None]) -> list[Size]:
    if None not in target:
        return [one for one in target if one is not None]
    others = product([one for one in target if one is not None])
    missing = total.over(others)
    if missing is None or list(target).count(None) > 1:
        raise MixesError(f"{total} values are put into {others} each, which is not known to keep rows apart")
    return [missing if one is None else one for one in target]


def reshaped_without_rows(source: Dims, target: Sequence[Size | None]) -> Dims:
    total = product([size(dim) for dim in source])
    sizes: list[Size] = []
    others = product([one for one in target if one is not None])
    for one in target:
        sizes.append(one if one is not None else total.over(others) or derived("rest", total, others))
    if any(one.rows for one in sizes):
        raise MixesError("what is no batch is given as many places as there are rows")
    return tuple(sizes)


def expanded(source: Tensor, sizes: Sequence[Size | None]) -> Tensor:
    """None keeps a size."""
    added = len(sizes) - source.rank
    if added < 0:
        raise DoubtError("it is expanded to fewer dimensions than it has")
    dims: list[Dim] = []
    for place, wanted in enumerate(sizes):
        old: Dim = source.dims[place - added] if place >= added else ONE
        if wanted is None or wanted == size(old):
            dims.append(old)
        elif isinstance(old, RowDim):
            raise MixesError(f"the axis of rows is expanded to {wanted}")
        elif wanted.rows:
            if old != ONE:
                raise MixesError(f"an axis of {old} is expanded to {wanted}")
            dims.append(dims_of([wanted])[0])
        else:
            dims.append(wanted)
    checked_dims = checked(dims)
    uniform = source.uniform or source.row_axis is None
    return Tensor(checked_dims, source.kind, False, uniform, source.memory)


def repeated(source: Tensor, counts: Sequence[Size]) -> Tensor:
    added = len(counts) - source.rank
    if added < 0:
        raise DoubtError("it is repeated along fewer dimensions than it has")
    dims: list[Dim] = []
    for place, times in enumerate(counts):
        old: Dim = source.dims[place - added] if place >= added else ONE
        if times.rows > 1 or (times.rows and isinstance(old, RowDim)):
            raise MixesError("the axis of rows is repeated once for each row")
        if times.rows:
            [rows] = dims_of([times])
            dims.append(RowDim(ONE, cast(RowDim, rows).inner.times(size(old))))
        elif isinstance(old, RowDim):
            dims.append(RowDim(times.times(old.outer), old.inner))
        else:
            dims.append(old.times(times))
    return fresh(checked(dims), source, kind=source.kind)


def multiplied(a: Dims, b: Dims) -> Dims:
    """Of `matmul`."""
    if not a or not b:
        raise DoubtError("a matrix product of a single number")
    left: Dims = (ONE, *a) if len(a) == 1 else a
    right: Dims = (*b, ONE) if len(b) == 1 else b
    fixed((left[-1], right[-2]), "what a matrix product sums over", certain=True)
    batch = broadcast(left[:-2], right[:-2])
    ends: list[Dim] = []
    if len(a) > 1:
        ends.append(left[-2])
    if len(b) > 1:
        ends.append(right[-1])
    return checked([*batch, *ends])


def reduced(source: Tensor, axes: Sequence[int] | None, *, keep: bool, what: str) -> Dims:
    """None: over all axes."""
    rank = source.rank
    chosen = set(range(rank)) if axes is None else {axis_of(axis, rank) for axis in axes}
    if source.row_axis in chosen:
        raise MixesError(f"{what} over the axis of rows", certain=not source.uniform)
    if keep:
        return tuple(ONE if axis in chosen else dim for axis, dim in enumerate(source.dims))
    return tuple(dim for axis, dim in enumerate(source.dims) if axis not in chosen)


def windowed(length: Size, kernel: object, stride: int, padding: object, dilation: int, ceil: bool = False) -> Size:
    """The places that a window of `kernel` has along `length`."""
    if isinstance(kernel, int) and isinstance(padding, int):
        covered = dilation * (kernel - 1) + 1
        if stride == 1 and 2 * padding == covered - 1:
            return length
        if length.known is not None and not ceil:
            return Size((length.known + 2 * padding - covered) // stride + 1)
    return derived("windows", length, kernel, stride, padding, dilation, ceil)
