"""Operations that move, cut and join dimensions: they keep the rows apart as long as the rows' axis stays whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from models.importing.independence.tf_elementwise import Rule, needs_rows, needs_shape, needs_shape_or_none
from models.importing.independence.tf_facts import (
    Counts,
    Fact,
    Rows,
    Shape,
    Shared,
    UnsureError,
    array_of,
    constants,
    numbers,
    reshaped,
    rows,
    same_layout,
    shared,
    without_values,
)
from models.importing.independence.tf_node import Node
from models.importing.independence.tf_sizes import ONE, ROWS, ZERO, Size, derived, product
from models.importing.independence.tf_values import filled


def shape_of(_node: Node, x: Fact) -> Fact:
    if isinstance(x, Shared) and x.shape is None:
        return Shared()
    shape = needs_any_shape(x)
    return numbers(filled(shape, (len(shape),)))


def shapes_of(node: Node, *facts: Fact) -> tuple[Fact, ...]:
    return tuple(shape_of(node, fact) for fact in facts)


def size_of(_node: Node, x: Fact) -> Fact:
    if isinstance(x, Shared) and x.shape is None:
        return Shared(())
    return numbers(filled([product(needs_any_shape(x))], ()))


def rank_of(_node: Node, x: Fact) -> Fact:
    if isinstance(x, Shared) and x.shape is None:
        return Shared(())
    return numbers(filled([Size.of(len(needs_any_shape(x)))], ()))


def needs_any_shape(fact: Fact) -> Shape:
    return fact.shape if isinstance(fact, Counts) else needs_shape(fact)


def sizes(node: Node, fact: Fact, count: int | None = None) -> list[Size]:
    """The elements of a vector of sizes; one that is Shared and not known gets a name of its own."""
    array = array_of(fact)
    if array is not None:
        return list(array.ravel().tolist())
    if isinstance(fact, Shared):
        length = fact.shape[0].number if fact.shape is not None and len(fact.shape) == 1 else count
        if length is not None:
            return [node.fresh(f"size{place}") for place in range(length)]
    raise UnsureError("takes a shape that is not known before the call")


def axis_from(fact: Fact, rank: int, what: str = "axis") -> int:
    found = constants(fact)
    if found is None or len(found) != 1:
        raise UnsureError(f"takes its {what} from the graph instead of a constant")
    return normal(found[0], rank)


def normal(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise UnsureError(f"names axis {axis} of a tensor with {rank} axes")
    return axis % rank


def reshape(node: Node, x: Fact, target: Fact) -> Fact:
    """Raises UnsureError unless the rows can be found again in the new shape."""
    if isinstance(x, Shared) and (x.shape is None or (isinstance(target, Shared) and target.values is None)):
        return _reshaped_unknown(node, x, target)
    wanted = sizes(node, target)
    if isinstance(x, Counts):
        raise UnsureError("computes with the number of rows")
    shape = needs_shape(x)
    filled_in = completed(node, product(shape), wanted)
    return shared(filled_in) if isinstance(x, Shared) else in_shape(needs_rows(x), filled_in)


def _reshaped_unknown(node: Node, x: Shared, target: Fact) -> Fact:
    if isinstance(target, Counts):
        raise UnsureError("gives a tensor of unknown size a shape that follows from the number of rows")
    try:
        wanted = sizes(node, target)
    except UnsureError:
        return Shared()
    return shared([node.fresh(f"size{place}") if size.number == -1 else size for place, size in enumerate(wanted)])


def completed(node: Node, total: Size, wanted: Sequence[Size]) -> list[Size]:
    """The shape with its -1 filled in."""
    open_places = [place for place, size in enumerate(wanted) if size.number == -1]
    if len(open_places) != 1:
        return list(wanted)
    rest = product(size for place, size in enumerate(wanted) if place != open_places[0])
    found = total.over(rest)
    if found is None:
        found = derived("div", total, rest)
    return [found if place == open_places[0] else size for place, size in enumerate(wanted)]


def in_shape(x: Rows, shape: Sequence[Size]) -> Rows:
    """Entry (before, row, after) of the flat tensor must be one of an axis: before and after must be as they were."""
    before = product(x.shape[: x.axis]) * x.outer
    after = x.inner * product(x.shape[x.axis + 1 :])
    for axis, size in enumerate(shape):
        outer = before.over(product(shape[:axis]))
        inner = None if outer is None else size.over(outer * ROWS)
        if outer is None or inner is None or size != outer * ROWS * inner:
            continue
        if inner * product(shape[axis + 1 :]) == after:
            return rows(shape, axis, outer, inner, x.varies)
    raise UnsureError(f"makes [{', '.join(map(str, shape))}] of [{', '.join(map(str, x.shape))}]")


def expand_dims(_node: Node, x: Fact, axis: Fact) -> Fact:
    if isinstance(x, Shared) and x.shape is None:
        return Shared()
    shape = needs_shape(x)
    place = axis_from(axis, len(shape) + 1)
    wider = (*shape[:place], ONE, *shape[place:])
    if isinstance(x, Shared):
        return shared(wider)
    held = needs_rows(x)
    return reshaped(held, wider, held.axis + (place <= held.axis))


def squeeze(node: Node, x: Fact) -> Fact:
    if isinstance(x, Shared) and x.shape is None:
        return Shared()
    shape = needs_shape(x)
    axes = {normal(axis, len(shape)) for axis in node.integers("squeeze_dims")}
    if isinstance(x, Shared):
        if not axes and any(size.number is None for size in shape):
            return Shared()
        gone = axes or {axis for axis, size in enumerate(shape) if size.number == 1}
        return shared([size for axis, size in enumerate(shape) if axis not in gone])
    held = needs_rows(x)
    if not axes or held.axis in axes:
        raise UnsureError("takes the rows' axis away where a batch has one row")
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    return reshaped(held, kept, held.axis - sum(axis < held.axis for axis in axes))


def transpose(_node: Node, x: Fact, order: Fact) -> Fact:
    if isinstance(x, Shared) and isinstance(order, Shared) and (x.shape is None or constants(order) is None):
        return Shared()
    shape, places = needs_shape(x), constants(order)
    if places is None:
        raise UnsureError("takes its order of axes from the graph instead of a constant")
    places = [normal(place, len(shape)) for place in places]
    if sorted(places) != list(range(len(shape))):
        raise UnsureError("takes an order of axes that is none")
    moved = [shape[place] for place in places]
    if isinstance(x, Shared):
        return shared(moved)
    held = needs_rows(x)
    return reshaped(held, moved, places.index(held.axis))


def pack(node: Node, *facts: Fact) -> Fact:
    if all(isinstance(fact, Shared | Counts) for fact in facts):
        return _packed_numbers(node, facts)
    held = all_rows(facts)
    axis = normal(node.integer("axis"), len(held[0].shape) + 1)
    shape = (*held[0].shape[:axis], Size.of(len(facts)), *held[0].shape[axis:])
    return replace(reshaped(held[0], shape, held[0].axis + (axis <= held[0].axis)), varies=vary(held))


def _packed_numbers(node: Node, facts: Sequence[Fact]) -> Fact:
    """A vector for a shape, in which some numbers may be known and others not, or a tensor of Shared ones."""
    arrays = [array_of(fact) for fact in facts]
    if any(array is not None for array in arrays) and all(needs_any_shape_or_none(fact) == () for fact in facts):
        known = [
            node.fresh(f"packed{place}") if array is None else array.ravel().tolist()[0]
            for place, array in enumerate(arrays)
        ]
        return numbers(filled(known, (len(known),)))
    shape = needs_shape_or_none(facts[0])
    if any(isinstance(fact, Counts) for fact in facts):
        raise UnsureError("computes with the number of rows")
    if shape is None:
        return Shared()
    axis = normal(node.integer("axis"), len(shape) + 1)
    return shared((*shape[:axis], Size.of(len(facts)), *shape[axis:]))


def needs_any_shape_or_none(fact: Fact) -> Shape | None:
    return fact.shape if isinstance(fact, Counts) else needs_shape_or_none(fact)


def all_rows(facts: Sequence[Fact]) -> list[Rows]:
    held = [fact for fact in facts if isinstance(fact, Rows)]
    if len(held) < len(facts):
        raise UnsureError("joins rows with a tensor of fixed size")
    if len({(fact.axis, len(fact.shape)) for fact in held}) != 1 or not same_layout(held):
        raise UnsureError("joins tensors that hold their rows along different axes")
    return held


def vary(facts: Sequence[Rows]) -> bool:
    return any(fact.varies for fact in facts)


def unpack(node: Node, x: Fact) -> tuple[Fact, ...]:
    count = node.integer("num")
    if isinstance(x, Shared) and x.shape is None:
        return (Shared(),) * count
    shape = needs_shape(x)
    axis = normal(node.integer("axis"), len(shape))
    return (_without_axis(x, axis),) * count


def _without_axis(x: Fact, axis: int) -> Fact:
    shape = needs_shape(x)
    kept = (*shape[:axis], *shape[axis + 1 :])
    if isinstance(x, Shared):
        return shared(kept)
    held = needs_rows(x)
    if axis == held.axis:
        raise UnsureError("takes single rows out of the batch")
    return reshaped(held, kept, held.axis - (axis < held.axis))


def concat(node: Node, *inputs: Fact) -> Fact:
    return _joined(node, inputs[:-1], inputs[-1])


def concat_axis_first(node: Node, axis: Fact, *facts: Fact) -> Fact:
    return _joined(node, facts, axis)


def _joined(node: Node, facts: Sequence[Fact], along: Fact) -> Fact:
    if all(isinstance(fact, Shared | Counts) for fact in facts):
        return _joined_numbers(node, facts, along)
    held = all_rows(facts)
    axis = axis_from(along, len(held[0].shape))
    if axis != held[0].axis:
        shape = list(held[0].shape)
        shape[axis] = _sum([fact.shape[axis] for fact in held])
        return replace(reshaped(held[0], shape, held[0].axis), varies=vary(held))
    if any(fact.shape[axis] != held[0].shape[axis] for fact in held):
        raise UnsureError("joins along the rows' axis")
    outer = held[0].outer * Size.of(len(held))
    shape = list(held[0].shape)
    shape[axis] = outer * ROWS * held[0].inner
    return rows(shape, axis, outer, held[0].inner, vary(held))


def _joined_numbers(node: Node, facts: Sequence[Fact], along: Fact) -> Fact:
    """Vectors for a shape, some of them not known, or tensors that are Shared."""
    arrays = [array_of(fact) for fact in facts]
    vectors = all(len(needs_any_shape_or_none(fact) or ()) == 1 for fact in facts)
    if vectors and any(array is not None for array in arrays):
        parts = [sizes(Named(node, place), fact) for place, fact in enumerate(facts)]  # type: ignore[arg-type]
        return numbers(filled([size for part in parts for size in part], (sum(map(len, parts)),)))
    if any(isinstance(fact, Counts) for fact in facts):
        raise UnsureError("computes with the number of rows")
    shapes = [needs_shape_or_none(fact) for fact in facts]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(facts) or constants(along) is None:
        return Shared()
    axis = axis_from(along, len(known[0]))
    shape = list(known[0])
    shape[axis] = _sum([shape[axis] for shape in known])
    return shared(shape)


class Named:
    """A node whose fresh sizes are told apart by the input that they are for."""

    def __init__(self, node: Node, place: int) -> None:
        self._node, self._place = node, place

    def fresh(self, tag: object) -> Size:
        return self._node.fresh(f"{self._place}.{tag}")


def _sum(found: Sequence[Size]) -> Size:
    total = ZERO
    for size in found:
        total = total + size
    return total


def split(node: Node, along: Fact, x: Fact) -> tuple[Fact, ...]:
    count = node.integer("num_split")
    if isinstance(x, Shared) and (x.shape is None or constants(along) is None):
        return (Shared(),) * count
    shape = list(needs_shape(x))
    axis = axis_from(along, len(shape))
    if isinstance(x, Rows) and axis == x.axis:
        outer = x.outer.over(Size.of(count))
        if outer is None:
            raise UnsureError("splits the rows' axis")
        shape[axis] = outer * ROWS * x.inner
        return (rows(shape, axis, outer, x.inner, x.varies),) * count
    part = shape[axis].over(Size.of(count))
    shape[axis] = node.fresh("part") if part is None else part
    return (resized(x, shape),) * count


def split_by_sizes(node: Node, x: Fact, parts: Fact, along: Fact) -> tuple[Fact, ...]:
    count = node.integer("num_split")
    if isinstance(x, Shared) and (x.shape is None or constants(along) is None):
        return (Shared(),) * count
    shape = needs_shape(x)
    axis = axis_from(along, len(shape))
    if isinstance(x, Rows) and axis == x.axis:
        raise UnsureError("splits the rows' axis")
    wanted = completed_sum(shape[axis], sizes(node, parts, count))
    return tuple(resized(x, [*shape[:axis], size, *shape[axis + 1 :]]) for size in wanted)


def completed_sum(total: Size, wanted: Sequence[Size]) -> list[Size]:
    rest = _sum([size for size in wanted if size.number != -1])
    return [total - rest if size.number == -1 else size for size in wanted]


def resized(x: Fact, shape: Sequence[Size]) -> Fact:
    """The same tensor with other sizes beside its rows."""
    if isinstance(x, Shared):
        return shared(shape)
    held = needs_rows(x)
    return reshaped(held, shape, held.axis)


def pad(node: Node, x: Fact, paddings: Fact, *value: Fact) -> Fact:
    if any(not isinstance(fact, Shared) for fact in value):
        raise UnsureError("fills up with a value from the batch")
    if isinstance(x, Shared) and x.shape is None:
        if isinstance(paddings, Shared):
            return Shared()
        raise UnsureError("adds as much as there are rows")
    shape = needs_shape(x)
    if isinstance(paddings, Shared) and paddings.values is None and isinstance(x, Shared):
        return Shared()
    added = sizes(node, paddings)
    if any(number.rows for number in added):
        raise UnsureError("adds as much as there are rows")
    if isinstance(x, Rows) and (added[2 * x.axis], added[2 * x.axis + 1]) != (ZERO, ZERO):
        raise UnsureError("adds rows to the batch")
    return resized(x, [size + added[2 * axis] + added[2 * axis + 1] for axis, size in enumerate(shape)])


def tile(node: Node, x: Fact, multiples: Fact) -> Fact:
    if isinstance(x, Shared) and isinstance(multiples, Shared) and (x.shape is None or multiples.values is None):
        return shared(None if x.shape is None else [node.fresh(f"tiled{axis}") for axis in range(len(x.shape))])
    shape, times = needs_shape(x), sizes(node, multiples)
    if isinstance(x, Rows):
        found = [size * number for size, number in zip(shape, times, strict=True)]
        return rows(found, x.axis, x.outer * times[x.axis], x.inner, x.varies)
    found = [size * number for size, number in zip(shape, times, strict=True)]
    axes = [axis for axis, number in enumerate(times) if number.rows]
    if not axes:
        return shared(found)
    if len(axes) > 1 or times[axes[0]] != ROWS:
        raise UnsureError("repeats a tensor by a multiple of the number of rows")
    return rows(found, axes[0], ONE, shape[axes[0]], varies=False)


def broadcast_to(node: Node, x: Fact, target: Fact) -> Fact:
    if isinstance(x, Shared) and isinstance(target, Shared):
        return shared([*sizes(node, target)]) if target.values is not None else Shared()
    wanted, shape = sizes(node, target), needs_shape(x)
    if isinstance(x, Rows):
        axis = x.axis + len(wanted) - len(shape)
        if wanted[axis] != shape[x.axis]:
            raise UnsureError("gives the rows' axis another size")
        return reshaped(x, wanted, axis)
    axes = [axis for axis, size in enumerate(wanted) if size.rows]
    place = axes[0] - len(wanted) + len(shape)
    if place >= 0 and shape[place].number != 1:
        raise UnsureError("meets the rows with a dimension of fixed size")
    return equal_rows(wanted, axes)


def equal_rows(shape: Sequence[Size], axes: Sequence[int]) -> Rows:
    """A tensor whose rows are all the same and whose entries are equal along the rows' axis."""
    inner = shape[axes[0]].over(ROWS) if len(axes) == 1 else None
    if inner is None:
        raise UnsureError("makes a tensor in which more than one dimension follows from the number of rows")
    return rows(shape, axes[0], ONE, inner, varies=False)


def fill(node: Node, dims: Fact, value: Fact) -> Fact:
    if not isinstance(value, Shared):
        raise UnsureError("fills a tensor with a value from the batch")
    if isinstance(dims, Shared) and dims.values is None and (dims.shape is None or dims.shape[0].number is None):
        return Shared()
    shape = sizes(node, dims)
    axes = [axis for axis, size in enumerate(shape) if size.rows]
    return equal_rows(shape, axes) if axes else shared(shape)


def ensure_shape(node: Node, x: Fact) -> Fact:
    wanted = node.attr("shape").shape
    if isinstance(x, Shared):
        return without_values(x)
    held = needs_rows(x)
    if not wanted.unknown_rank and wanted.dim[held.axis].size != -1:
        raise UnsureError("asks for a fixed number of rows")
    return held


def reverse(_node: Node, x: Fact, axes: Fact) -> Fact:
    return _along(x, axes, "turns the rows' axis round")


def roll(_node: Node, x: Fact, shift: Fact, axes: Fact) -> Fact:
    if not isinstance(shift, Shared):
        raise UnsureError("shifts by a number from the batch")
    return _along(x, axes, "shifts along the rows' axis")


def _along(x: Fact, axes: Fact, what: str) -> Fact:
    if isinstance(x, Shared):
        return without_values(x)
    held, found = needs_rows(x), constants(axes)
    if found is None:
        raise UnsureError("takes its axes from the graph instead of a constant")
    if held.axis in {normal(axis, len(held.shape)) for axis in found}:
        raise UnsureError(what)
    return held


def range_(node: Node, start: Fact, limit: Fact, delta: Fact) -> Fact:
    if not all(isinstance(fact, Shared) for fact in (start, limit, delta)):
        raise UnsureError("counts the rows: their places in the batch are not their own")
    return shared([node.fresh("length")])


def one_hot(node: Node, indices: Fact, depth: Fact, on: Fact, off: Fact) -> Fact:
    if not all(isinstance(fact, Shared) for fact in (depth, on, off)):
        raise UnsureError("takes its depth or its values from the batch")
    if isinstance(indices, Shared) and indices.shape is None:
        return Shared()
    shape = needs_shape(indices)
    axis = normal(node.integer("axis"), len(shape) + 1)
    wider = (*shape[:axis], *(sizes(node, depth, 1) if isinstance(depth, Shared) and depth.values else [node.fresh()]))
    wider = (*wider, *shape[axis:])
    if isinstance(indices, Shared):
        return shared(wider)
    held = needs_rows(indices)
    return reshaped(held, wider, held.axis + (axis <= held.axis))


RULES: dict[str, Rule] = {
    "Shape": shape_of,
    "ShapeN": shapes_of,
    "Size": size_of,
    "Rank": rank_of,
    "Reshape": reshape,
    "ExpandDims": expand_dims,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Pack": pack,
    "Unpack": unpack,
    "ConcatV2": concat,
    "Concat": concat_axis_first,
    "Split": split,
    "SplitV": split_by_sizes,
    "Pad": pad,
    "PadV2": pad,
    "MirrorPad": pad,
    "Tile": tile,
    "BroadcastTo": broadcast_to,
    "Fill": fill,
    "EnsureShape": ensure_shape,
    "ReverseV2": reverse,
    "Roll": roll,
    "Range": range_,
    "OneHot": one_hot,
}
