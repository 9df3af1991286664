"""Operations that show the same values in another form: each with the condition under which rows stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from models.importing.independence import torch_shapes as shapes
from models.importing.independence.torch_call import Call, Operation
from models.importing.independence.torch_values import (
    ANY,
    ONE,
    Counted,
    Dim,
    Dims,
    DoubtError,
    Fixed,
    Items,
    Known,
    MixesError,
    Number,
    RowDim,
    Size,
    Tensor,
    Tupled,
    Value,
    derived,
    product,
)

END = 2**31
"""`x[a:]` reaches to the greatest integer."""
INTEGERS, TRUTHS = ("torch.int32", "torch.int64"), ("torch.bool",)


def same_form(call: Call) -> Tensor:
    source = call.first()
    return shapes.fresh(source.dims, source, kind=source.kind)


def same_or_view(call: Call) -> Tensor:
    """Itself, always, or another type of it."""
    call.read.add("other")  # gives its datatype alone
    return replace(call.first(), kind="")


def detached(call: Call) -> Tensor:
    return call.first()


def contiguous(call: Call) -> Tensor:
    source = call.first()
    return source.perhaps_copied(source.dims)


def cast(call: Call) -> Tensor:
    """Of `to`: whether it copies follows from types and devices alone."""
    source = call.first()
    kind = source.kind if "dtype" not in call.arguments else ""
    dtype = call.arguments.get("dtype")
    if isinstance(dtype, Known):
        kind = source.kind if dtype.value is None else kind_of_dtype(dtype.value)
    return source.viewed(source.dims, kind)


def kind_of_dtype(dtype: object) -> str:
    """TorchScript numbers datatypes: 3 and 4 are int32 and int64, 11 is bool."""
    name = (
        {3: "torch.int32", 4: "torch.int64", 11: "torch.bool"}.get(dtype, "f") if isinstance(dtype, int) else str(dtype)
    )
    return "i" if name in INTEGERS else "b" if name in TRUTHS else ""


def dropped(call: Call) -> Tensor:
    """Dropout, only where it is off."""
    if call.known("train") and call.known("p") != 0:
        raise DoubtError("it drops values by chance: the model is in training mode")
    return call.first()


def permuted(call: Call) -> Tensor:
    source = call.first()
    order = [shapes.axis_of(axis, source.rank) for axis in call.integers("dims")]
    if sorted(order) != list(range(source.rank)):
        raise DoubtError("its dims are no order of the axes")
    return source.viewed([source.dims[axis] for axis in order])


def swapped(source: Tensor, one: int, other: int) -> Tensor:
    dims = list(source.dims)
    dims[one], dims[other] = dims[other], dims[one]
    return source.viewed(dims)


def transposed(call: Call) -> Tensor:
    source, names = call.first(), list(call.arguments)
    if not source.rank:
        return source
    return swapped(source, call.axis(source, names[1]), call.axis(source, names[2]))


def turned(call: Call) -> Tensor:
    """`x.t()`"""
    source = call.first()
    return swapped(source, 0, 1) if source.rank == 2 else source.viewed(source.dims)


def reversed_axes(call: Call) -> Tensor:
    """`x.T`"""
    return call.first().viewed(call.first().dims[::-1])


def matrix_turned(call: Call) -> Tensor:
    """`x.mT`"""
    source = call.first()
    return swapped(source, source.rank - 2, source.rank - 1)


def moved(call: Call) -> Tensor:
    source = call.first()
    if not source.rank:
        return source
    origin = [shapes.axis_of(axis, source.rank) for axis in call.integers("source")]
    goal = [shapes.axis_of(axis, source.rank) for axis in call.integers("destination")]
    rest = iter([axis for axis in range(source.rank) if axis not in origin])
    by_place = dict(zip(goal, origin, strict=True))
    order = [by_place[place] if place in by_place else next(rest) for place in range(source.rank)]
    return source.viewed([source.dims[axis] for axis in order])


def unsqueezed(call: Call) -> Tensor:
    source = call.first()
    axis = shapes.axis_of(call.known("dim"), source.rank + 1)
    return source.viewed([*source.dims[:axis], ONE, *source.dims[axis:]])


def squeezed(call: Call) -> Tensor:
    source = call.first()
    axes = {shapes.axis_of(axis, source.rank) for axis in call.integers("dim")} if source.rank else set()
    gone = set()
    for axis in axes:
        dim = source.dims[axis]
        if isinstance(dim, RowDim):
            raise MixesError("it drops the axis of rows where there is one row")
        if dim.known is None:
            raise DoubtError(f"whether it drops axis {axis}, of free size, differs")
        if dim == ONE:
            gone.add(axis)
    return source.viewed([dim for axis, dim in enumerate(source.dims) if axis not in gone])


def squeezed_everywhere(call: Call) -> Tensor:
    """Which axes are dropped must be known; with one row the axis of rows would be."""
    source = call.first()
    if source.row_axis is not None:
        raise MixesError("it drops the axis of rows where there is one row")
    sizes = shapes.fixed(source.dims, "")
    if any(one.known is None for one in sizes):
        raise DoubtError("which axes it drops depends on free sizes")
    return source.viewed([one for one in sizes if one != ONE])


def viewed(call: Call) -> Tensor:
    source = call.first()
    return source.viewed(shapes.reshaped(source.dims, call.shape("size")))


def reshaped(call: Call) -> Tensor:
    source = call.first()
    return source.perhaps_copied(shapes.reshaped(source.dims, call.shape("shape")))


def viewed_as(call: Call) -> Tensor:
    source = call.first()
    return source.perhaps_copied(shapes.reshaped(source.dims, [shapes.size(dim) for dim in call.tensor("other").dims]))


def flattened(call: Call) -> Tensor:
    source = call.first()
    if not source.rank:
        return source.perhaps_copied([ONE])
    start, end = call.axis(source, "start_dim"), call.axis(source, "end_dim")
    if start > end:
        raise DoubtError("its start lies behind its end")
    sizes = [shapes.size(dim) for dim in source.dims]
    target = [*sizes[:start], product(sizes[start : end + 1]), *sizes[end + 1 :]]
    return source.perhaps_copied(shapes.reshaped(source.dims, target))


def unflattened(call: Call) -> Tensor:
    source = call.first()
    axis = call.axis(source)
    parts = call.shape("sizes")
    whole = shapes.size(source.dims[axis])
    sizes: list[Size | None] = [shapes.size(dim) for dim in source.dims]
    if None in parts and not whole.rows:
        others = product([one for one in parts if one is not None])
        rest = whole.over(others) or derived("rest", whole, others)
        parts = [rest if one is None else one for one in parts]
    return source.perhaps_copied(shapes.reshaped(source.dims, [*sizes[:axis], *parts, *sizes[axis + 1 :]]))


def expanded(call: Call) -> Tensor:
    return shapes.expanded(call.first(), call.shape("size"))


def expanded_as(call: Call) -> Tensor:
    return shapes.expanded(call.first(), [shapes.size(dim) for dim in call.tensor("other").dims])


def broadcast_together(call: Call) -> Value:
    found = call.tensors("tensors")
    dims = shapes.broadcast(*(tensor.dims for tensor in found))
    sizes: list[Size | None] = [shapes.size(dim) for dim in dims]
    return Items([shapes.expanded(tensor, sizes) for tensor in found], region=call.regions.tip)


def repeated(call: Call) -> Tensor:
    return shapes.repeated(call.first(), call.sizes("repeats"))


def tiled(call: Call) -> Tensor:
    source, counts = call.first(), call.sizes("dims")
    missing = max(0, source.rank - len(counts))
    return shapes.repeated(source, [ONE] * missing + counts)


def repeated_values(call: Call) -> Tensor:
    """`repeat_interleave`: each value so many times, one behind the other."""
    source = call.first()
    if call.known("dim") is None:
        source = source.viewed(shapes.reshaped(source.dims, [None]))
        axis = 0
    else:
        axis = call.axis(source)
    times = call.size("repeats")
    if times.rows:
        raise MixesError("values are repeated as often as there are rows")
    dim = source.dims[axis]
    longer: Dim = RowDim(dim.outer, dim.inner.times(times)) if isinstance(dim, RowDim) else dim.times(times)
    return shapes.fresh([*source.dims[:axis], longer, *source.dims[axis + 1 :]], source, kind=source.kind)


def without(dims: Dims, axis: int) -> list[Dim]:
    return [*dims[:axis], *dims[axis + 1 :]]


def selected(call: Call) -> Tensor:
    source = call.first()
    axis = call.axis(source)
    if axis == source.row_axis:
        raise MixesError("it takes a single place of the axis of rows", certain=not source.uniform)
    call.scalar("index")
    return source.viewed(without(source.dims, axis))


def sliced(call: Call) -> Tensor:
    """Along the axis of rows only where it keeps all of them."""
    source = call.first()
    axis = call.axis(source)
    start, end, step = (call.value(name) for name in ("start", "end", "step"))
    dim = source.dims[axis]
    if start in (Known(None), Known(0)) and step == Known(1) and reaches_end(end, dim):
        return source.viewed(source.dims)
    if isinstance(dim, RowDim):
        raise MixesError("it takes some of the rows by their places")
    parts = [call.scalar(name) for name in ("start", "end", "step")]
    length = call.regions.fresh() if any(isinstance(part, Fixed) for part in parts) else slice_length(dim, parts)
    return source.viewed([*source.dims[:axis], length, *source.dims[axis + 1 :]])


def reaches_end(end: Value, dim: Dim) -> bool:
    if isinstance(end, Counted):
        end = end.number
    if isinstance(end, Number):
        return end.size == shapes.size(dim)
    if not isinstance(end, Known):
        return False
    known = shapes.size(dim).known
    return end.value is None or bool(end.value >= END) or (known is not None and bool(end.value >= known))


def slice_length(dim: Size, parts: Sequence[Value]) -> Size:
    start, end, step = (
        part.size if isinstance(part, Number) else part.value if isinstance(part, Known) else part for part in parts
    )
    if dim.known is not None and not any(isinstance(part, Size) for part in (start, end, step)):
        return Size(len(range(*slice(start, end, step).indices(dim.known))))
    if start in (None, 0) and step == 1 and isinstance(end, Size) and dim.known is not None and dim.known > 1:
        return derived("min", dim, end)
    return derived("slice", dim, start, end, step)


def narrowed(call: Call) -> Tensor:
    source = call.first()
    axis = call.axis(source)
    if axis == source.row_axis:
        raise MixesError("it takes some of the rows by their places")
    call.scalar("start")
    call.scalar("length")
    return source.viewed([*source.dims[:axis], call.size("length"), *source.dims[axis + 1 :]])


def unfolded(call: Call) -> Tensor:
    """`x.unfold(dimension, size, step)`: overlapping windows."""
    source = call.first()
    axis = call.axis(source, "dimension")
    [length] = shapes.fixed([source.dims[axis]], "what it cuts into windows")
    windows = shapes.windowed(length, call.known("size"), call.known("step"), 0, 1)
    return source.perhaps_copied([*source.dims[:axis], windows, *source.dims[axis + 1 :], call.size("size")])


def pieces(source: Tensor, axis: int, lengths: Sequence[Size], call: Call) -> Items:
    before, behind = source.dims[:axis], source.dims[axis + 1 :]
    return Items([source.viewed([*before, length, *behind]) for length in lengths], region=call.regions.tip)


def some_pieces(source: Tensor, axis: int) -> Items:
    """As many as follow from a free size, each of some length."""
    each = source.viewed([*source.dims[:axis], Size(1, (ANY,)), *source.dims[axis + 1 :]])
    return Items(None, each, writable=False)


def length_of(source: Tensor, axis: int) -> Size:
    [length] = shapes.fixed([source.dims[axis]], "what it splits")
    return length


def chunked(call: Call) -> Items:
    source = call.first()
    axis = call.axis(source)
    length, chunks = length_of(source, axis), call.known("chunks")
    if length.known is None:
        even = length.over(Size(chunks))
        return pieces(source, axis, [even] * chunks, call) if even else some_pieces(source, axis)
    return pieces(source, axis, cut(length.known, -(-length.known // chunks)), call)


def cut(length: int, piece: int) -> list[Size]:
    if piece < 1:
        raise DoubtError("it splits into pieces of no length")
    return [Size(min(piece, length - begin)) for begin in range(0, length, piece)]


def split(call: Call) -> Items:
    source = call.first()
    axis = call.axis(source)
    length, name = length_of(source, axis), list(call.arguments)[1]
    wanted = call.value(name)
    if isinstance(wanted, (Items, Tupled)) or (isinstance(wanted, Known) and isinstance(wanted.value, list)):
        return pieces(source, axis, [fixed_size(size) for size in call.sizes(name)], call)
    piece = fixed_size(call.size(name))
    if piece.known is None or length.known is None:
        return some_pieces(source, axis)
    return pieces(source, axis, cut(length.known, piece.known), call)


def fixed_size(size: Size) -> Size:
    if size.rows:
        raise DoubtError("it splits by the number of rows")
    return size


def unbound(call: Call) -> Items:
    source = call.first()
    axis = call.axis(source)
    length = length_of(source, axis)
    each = source.viewed(without(source.dims, axis))
    if length.known is None:
        return Items(None, each, writable=False)
    return Items([each] * length.known, region=call.regions.tip)


def named(names: str, operation: Operation) -> dict[str, Operation]:
    return {f"aten::{name}": operation for name in names.split()}


PERHAPS_COPIES = {
    f"aten::{name}"
    for name in (
        "contiguous",
        "reshape",
        "view_as",
        "reshape_as",
        "flatten.using_ints",
        "unflatten.int",
        "unfold",
        "einsum",
        "channel_shuffle",
    )
}
"""They give a view, or a copy where strides ask for one: those of a single row are not those of several."""

TABLE: dict[str, Operation] = {
    **named("clone", same_form),
    **named("detach alias lift_fresh lift_fresh_copy lift detach_copy positive", detached),
    **named("contiguous", contiguous),
    **named("to.dtype to.device to.dtype_layout to.prim_dtype to.prim_Device _to_copy", cast),
    **named("type_as to.other to.prim_other dequantize.self", same_or_view),
    **named("dropout feature_dropout alpha_dropout feature_alpha_dropout dropout_ feature_dropout_", dropped),
    **named("permute", permuted),
    **named("transpose.int swapaxes swapdims", transposed),
    **named("t", turned),
    **named("numpy_T", reversed_axes),
    **named("mT", matrix_turned),
    **named("movedim.int movedim.intlist moveaxis.int moveaxis.intlist", moved),
    **named("unsqueeze", unsqueezed),
    **named("squeeze.dim squeeze.dims", squeezed),
    **named("squeeze", squeezed_everywhere),
    **named("view _unsafe_view", viewed),
    **named("reshape", reshaped),
    **named("view_as reshape_as", viewed_as),
    **named("flatten.using_ints", flattened),
    **named("unflatten.int", unflattened),
    **named("expand", expanded),
    **named("expand_as", expanded_as),
    **named("broadcast_tensors", broadcast_together),
    **named("repeat", repeated),
    **named("tile", tiled),
    **named("repeat_interleave.self_int", repeated_values),
    **named("select.int", selected),
    **named("slice.Tensor", sliced),
    **named("narrow", narrowed),
    **named("unfold", unfolded),
    **named("chunk", chunked),
    **named("split.Tensor split_with_sizes split.sizes split", split),
    **named("unbind.int", unbound),
}
