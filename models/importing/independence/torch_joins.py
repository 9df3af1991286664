"""Operations that join, choose and make values: each with the condition under which rows stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from models.importing.independence import torch_shapes as shapes
from models.importing.independence.torch_call import Call, Operation, in_place
from models.importing.independence.torch_values import (
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
    Scalar,
    Size,
    Tensor,
    Value,
    Varies,
    derived,
    leaves,
)
from models.importing.independence.torch_views import kind_of_dtype, named


def concatenated(call: Call) -> Tensor:
    found = tensors_of(call)
    axis = shapes.axis_of(call.known("dim"), found[0].rank)
    ends = [tensor.dims[axis] for tensor in found]
    if any(isinstance(dim, RowDim) for dim in ends):
        raise MixesError("it joins along the axis of rows")
    total = summed(shapes.fixed(ends, "")) if counted(call) else call.regions.fresh()
    rest = aligned([(*tensor.dims[:axis], ONE, *tensor.dims[axis + 1 :]) for tensor in found])
    return shapes.fresh([*rest[:axis], total, *rest[axis + 1 :]], *found, kind=common_kind(found))


def stacked(call: Call) -> Tensor:
    found = tensors_of(call)
    axis = shapes.axis_of(call.known("dim"), found[0].rank + 1)
    dims = aligned([tensor.dims for tensor in found])
    count = Size(len(found)) if counted(call) else call.regions.fresh()
    return shapes.fresh([*dims[:axis], count, *dims[axis:]], *found, kind=common_kind(found))


def counted(call: Call) -> bool:
    found = call.value("tensors")
    return not (isinstance(found, Items) and found.values is None)


def tensors_of(call: Call) -> list[Tensor]:
    """What is joined; of a list of unknown length, the one item that stands for all."""
    found = call.value("tensors")
    if isinstance(found, Items) and found.values is None and found.each is not None:
        call = replace(call, arguments={"tensors": Items([found.each])})
    tensors = call.tensors("tensors")
    if not tensors or any(not tensor.rank == tensors[0].rank for tensor in tensors):
        raise DoubtError("it joins no tensors, or tensors of different rank")
    return tensors


def summed(sizes: Sequence[Size]) -> Size:
    if all(size.known is not None for size in sizes):
        return Size(sum(size.factor for size in sizes))
    if len({(size.symbols, size.rows) for size in sizes}) == 1:
        return Size(sum(size.factor for size in sizes), sizes[0].symbols)
    return derived("sum", *sorted(sizes, key=str))


def aligned(forms: Sequence[Dims]) -> Dims:
    """Of tensors that must have the same shape."""
    rows = {next((axis for axis, dim in enumerate(dims) if isinstance(dim, RowDim)), None) for dims in forms}
    if len(rows) > 1:
        raise MixesError("it joins tensors that have the rows on different axes, or none")
    result: list[Dim] = []
    for dims in zip(*forms, strict=True):
        if isinstance(dims[0], RowDim) and any(dim != dims[0] for dim in dims):
            raise MixesError("it joins tensors whose rows differ in form")
        result.append(next((dim for dim in dims if isinstance(dim, Size) and dim.known is not None), dims[0]))
    return tuple(result)


def common_kind(found: Sequence[Tensor]) -> str:
    kinds = {tensor.kind for tensor in found}
    return kinds.pop() if len(kinds) == 1 else ""


def rolled(call: Call) -> Tensor:
    source = call.first()
    axes = {shapes.axis_of(axis, source.rank) for axis in call.integers("dims")}
    if source.row_axis is not None and (not axes or source.row_axis in axes):
        raise MixesError("it moves values from row to row", certain=True)
    if "shifts" in call.arguments and any(one.rows for one in call.sizes("shifts")):
        raise DoubtError("it moves values by the number of rows")
    return shapes.fresh(source.dims, source, kind=source.kind)


def padded(call: Call) -> Tensor:
    """Pads the last axes."""
    source = call.first()
    amounts = call.sizes("pad" if "pad" in call.arguments else "padding")
    if len(amounts) % 2 or len(amounts) > 2 * source.rank or any(one.rows for one in amounts):
        raise DoubtError("its padding does not fit, or follows from the number of rows")
    if "value" in call.arguments:
        call.scalar("value")
    dims = list(source.dims)
    for place in range(len(amounts) // 2):
        before, behind = amounts[2 * place], amounts[2 * place + 1]
        axis = source.rank - 1 - place
        if before == behind == Size(0):
            continue
        [length] = shapes.fixed([dims[axis]], "what it pads")
        dims[axis] = summed([length, before, behind])
    return replace(shapes.fresh(dims, source, kind=source.kind), writable=False)


def triangle(call: Call) -> Tensor:
    source = call.first()
    if source.rank < 2:
        raise DoubtError("it has no two axes")
    shapes.fixed(source.dims[-2:], "one side of the triangle")
    call.scalar("diagonal")
    return shapes.fresh(source.dims, source, kind=source.kind)


def index_selected(call: Call) -> Tensor:
    source, index = call.first(), call.tensor("index")
    if not source.rank or index.rank > 1:
        raise DoubtError("its index has no single axis")
    axis = call.axis(source)
    if axis == source.row_axis:
        raise MixesError("it chooses rows by their places")
    dims = [*source.dims[:axis], *(index.dims or (ONE,)), *source.dims[axis + 1 :]]
    return shapes.fresh(shapes.checked(dims), source, index, kind=source.kind)


def gathered(call: Call) -> Tensor:
    source, index = call.first(), call.tensor("index")
    same_rows(source, index, call.axis(source))
    return shapes.fresh(index.dims, source, index, kind=source.kind)


def same_rows(source: Tensor, index: Tensor, axis: int) -> None:
    """Where one has rows, all have them on the same axis, and it is not the one that is indexed."""
    if source.row_axis is None and index.row_axis is None:
        return
    if source.rank != index.rank or source.row_axis != index.row_axis:
        raise MixesError("values and places do not have the rows on the same axis")
    if source.row_axis is not None and source.dims[source.row_axis] != index.dims[source.row_axis]:
        raise MixesError("the rows of values and places differ in form")
    if axis == source.row_axis:
        raise MixesError("it chooses rows by their places")


def scattered(call: Call) -> Tensor:
    source, index = call.first(), call.tensor("index")
    axis = call.axis(source)
    same_rows(source, index, axis)
    parts = [source, index]
    for name in ("src", "value"):
        if isinstance(call.value(name), Tensor):
            part = call.tensor(name)
            if part.rank or part.row_axis is not None:
                same_rows(source, part, axis)
            parts.append(part)
        elif name in call.arguments:
            call.scalar(name)
    return shapes.fresh(source.dims, *parts, kind=source.kind)


def indexed(call: Call) -> Tensor:
    """`x[:, places]`, `table[places]`: by integers, on axes next to one another."""
    source = call.first()
    given = list(call.items("indices"))
    where = [place for place, value in enumerate(given) if value != Known(None)]
    tensors = [value for value in given if isinstance(value, Tensor)]
    if not tensors or len(tensors) != len(where) or len(given) > source.rank:
        raise DoubtError("its places are not known to be tensors")
    if any(tensor.kind != "i" for tensor in tensors):
        raise DoubtError(
            "it chooses values by an index that is not known to be integers: how many may follow from values"
        )
    if where != list(range(where[0], where[-1] + 1)):
        raise DoubtError("it indexes axes that are not next to one another")
    if any(isinstance(dim, RowDim) for dim in source.dims[where[0] : where[-1] + 1]):
        raise MixesError("it chooses rows by their places")
    places = shapes.broadcast(*(tensor.dims for tensor in tensors))
    dims = shapes.checked([*source.dims[: where[0]], *places, *source.dims[where[-1] + 1 :]])
    return shapes.fresh(dims, source, *tensors, kind=source.kind)


def one_hot(call: Call) -> Tensor:
    source = call.first()
    classes = call.known("num_classes")
    if classes < 0:
        raise DoubtError("it has as many classes as the greatest value of the batch asks for")
    return shapes.fresh([*source.dims, Size(classes)], source, kind="i")


def made(call: Call) -> Tensor:
    """zeros, ones, full: the same in each row."""
    call.read.add("self")  # gives its datatype alone
    if "fill_value" in call.arguments:
        call.scalar("fill_value")
    return Tensor(shapes.dims_of(call.sizes("size")), uniform=True)


def made_like(call: Call) -> Tensor:
    if "fill_value" in call.arguments:
        call.scalar("fill_value")
    return Tensor(call.first().dims, uniform=True)


def varies(value: Value) -> bool:
    return isinstance(value, Varies) or (isinstance(value, Number) and value.size.rows > 0)


def given_kind(call: Call, numbers: Sequence[Value]) -> str:
    """Of integers, where no other datatype is asked for."""
    dtype = call.arguments.get("dtype", Known(None))
    if dtype != Known(None):
        return kind_of_dtype(dtype.value) if isinstance(dtype, Known) else ""
    whole = all(isinstance(one, Number) or (isinstance(one, Known) and type(one.value) is int) for one in numbers)
    return "i" if whole else ""


def counted_up(call: Call) -> Tensor:
    """`arange`, where none of its ends follows from the number of rows."""
    names = [name for name in ("start", "end", "step") if name in call.arguments]
    if any(varies(call.value(name)) for name in names):
        raise MixesError("it numbers the rows")
    parts: dict[str, Scalar] = {"start": Known(0), "step": Known(1)} | {name: call.scalar(name) for name in names}
    start, end, step = parts["start"], parts["end"], parts["step"]
    values = [part.value for part in (start, end, step) if isinstance(part, Known) and type(part.value) is int]
    if len(values) == 3:
        length = Size(len(range(*values)))
    elif start == Known(0) and step == Known(1) and isinstance(end, Number):
        length = end.size
    else:
        length = call.regions.fresh()
    return Tensor((length,), given_kind(call, list(parts.values())))


def spaced(call: Call) -> Tensor:
    call.scalar("start")
    call.scalar("end")
    if call.size("steps").rows:
        raise MixesError("it numbers the rows")
    return Tensor((call.size("steps"),))


def identity_matrix(call: Call) -> Tensor:
    sizes = [call.size(name) for name in ("n", "m") if name in call.arguments]
    if any(size.rows for size in sizes):
        raise MixesError("it makes a matrix with a row for each row")
    return Tensor((sizes[0], sizes[-1]))


def from_numbers(call: Call) -> Value:
    """`torch.tensor` of numbers, or of lists of them."""
    value = call.value(next(iter(call.arguments)))
    dims: list[Size] = []
    inner: Value = value
    while isinstance(inner, Items):
        if inner.values is None:
            raise DoubtError("how many numbers it takes is not known")
        dims.append(Size(len(inner.values)))
        inner = inner.values[0] if inner.values else Known(0)
    numbers = list(leaves(value))
    if any(varies(one) for one in numbers):
        raise MixesError("it computes with the number of rows")
    if not all(isinstance(one, (Known, Number, Fixed)) for one in numbers):
        raise DoubtError("it takes more than numbers")
    if not dims and call.arguments.get("dtype", Known(None)) == Known(None) and isinstance(value, (Known, Number)):
        return Counted(value)
    return Tensor(tuple(dims), given_kind(call, numbers))


def gridded(call: Call) -> Items:
    """`meshgrid`"""
    found = call.tensors("tensors")
    if any(tensor.row_axis is not None or tensor.rank > 1 for tensor in found):
        raise DoubtError("it makes a grid of rows")
    dims = [tensor.dims[0] if tensor.dims else ONE for tensor in found]
    if call.arguments.get("indexing") == Known("xy") and len(dims) > 1:
        dims[0], dims[1] = dims[1], dims[0]
    grids: list[Value] = [Tensor(tuple(dims), tensor.kind, False, memory=tensor.memory) for tensor in found]
    return Items(grids, region=call.regions.tip)


TABLE: dict[str, Operation] = {
    **named("cat concat concatenate", concatenated),
    **named("stack", stacked),
    **named("roll flip", rolled),
    **named("pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d", padded),
    **named("replication_pad1d replication_pad2d replication_pad3d", padded),
    **named("tril triu", triangle),
    **named("index_select", index_selected),
    **named("gather", gathered),
    **named("scatter.src scatter.value scatter_add", scattered),
    **named("index.Tensor index.Tensor_hacked_twin", indexed),
    **named("one_hot", one_hot),
    **named("zeros ones full new_zeros new_ones new_full", made),
    **named("zeros_like ones_like full_like", made_like),
    **named("arange arange.start arange.start_step", counted_up),
    **named("linspace", spaced),
    **named("eye eye.m", identity_matrix),
    **named("tensor tensor.int tensor.float tensor.bool scalar_tensor", from_numbers),
    **named("meshgrid meshgrid.indexing", gridded),
    **named("scatter_.src scatter_.value scatter_add_", in_place(scattered)),
    **named("tril_ triu_", in_place(triangle)),
}
