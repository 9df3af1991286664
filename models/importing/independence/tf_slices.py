"""Operations that cut a part out of a tensor: they keep the rows apart as long as they take all of them."""

from __future__ import annotations

from collections.abc import Sequence

from models.importing.independence.tf_elementwise import Rule, needs_rows, needs_shape
from models.importing.independence.tf_facts import Counts, Fact, Rows, Shape, Shared, UnsureError, reshaped, shared
from models.importing.independence.tf_layout import Named, resized, sizes
from models.importing.independence.tf_node import Node
from models.importing.independence.tf_sizes import ONE, ZERO, Size
from models.importing.independence.tf_values import has_bit


def slice_(node: Node, x: Fact, begin: Fact, size: Fact) -> Fact:
    if isinstance(x, Shared) and x.shape is None:
        if isinstance(begin, Shared) and isinstance(size, Shared):
            return Shared()
        raise UnsureError("takes a part that follows from the number of rows")
    shape = needs_shape(x)
    first, wanted = sizes(Named(node, 0), begin, len(shape)), sizes(Named(node, 1), size, len(shape))  # type: ignore[arg-type]
    if isinstance(x, Rows) and not (
        first[x.axis] == ZERO and (wanted[x.axis].number == -1 or wanted[x.axis] == shape[x.axis])
    ):
        raise UnsureError("takes a part of the rows' axis")
    if any(number.rows for number in first):
        raise UnsureError("takes a part that follows from the number of rows")
    found = [(shape[axis] - first[axis] if wanted[axis].number == -1 else wanted[axis]) for axis in range(len(shape))]
    return resized(x, found)


def strided_slice(node: Node, x: Fact, begin: Fact, end: Fact, strides: Fact) -> Fact:
    if not all(isinstance(fact, Shared | Counts) for fact in (begin, end, strides)):
        raise UnsureError("takes a part that follows from the batch")
    if isinstance(x, Shared) and x.shape is None:
        if any(isinstance(fact, Counts) for fact in (begin, end, strides)):
            raise UnsureError("takes a part that follows from the number of rows")
        return Shared()
    shape = needs_shape(x)
    # A name for each number that is not known: none of them is taken for a constant below.
    first, last, step = (sizes(Named(node, n), f) for n, f in enumerate((begin, end, strides)))  # type: ignore[arg-type]
    found, place, axis = _sliced(node, x, shape, (first, last, step))
    return _resized_at(x, found, axis if isinstance(x, Rows) else place)


def _resized_at(x: Fact, shape: Sequence[Size], axis: int) -> Fact:
    return shared(shape) if isinstance(x, Shared) else reshaped(needs_rows(x), shape, axis)


def _sliced(
    node: Node, x: Fact, shape: Shape, bounds: tuple[list[Size], list[Size], list[Size]]
) -> tuple[list[Size], int, int]:
    """The new shape, and where the rows' axis is in it. As in TensorFlow's util/strided_slice_op.cc."""
    spec = len(bounds[0])
    ellipses = [place for place in range(spec) if has_bit(node, "ellipsis_mask", place)]
    new = [place for place in range(spec) if has_bit(node, "new_axis_mask", place) and place not in ellipses]
    own = spec - len(new) - len(ellipses)
    whole = len(shape) - own
    if len(ellipses) > 1 or whole < 0:
        raise UnsureError("takes a part of more axes than there are")
    found: list[Size] = []
    axis, kept_rows = 0, -1
    for place in [*range(spec), *([] if ellipses else [None])]:
        if place is None or place in ellipses:
            for _ in range(whole):
                kept_rows = len(found) if isinstance(x, Rows) and axis == x.axis else kept_rows
                found.append(shape[axis])
                axis += 1
            continue
        if place in new:
            found.append(ONE)
            continue
        shrinks = has_bit(node, "shrink_axis_mask", place)
        if isinstance(x, Rows) and axis == x.axis:
            _check_whole(node, place, shape[axis], bounds)
            kept_rows = len(found)
            found.append(shape[axis])
        else:
            _check_own(node, place, bounds)
            if not shrinks:
                found.append(_slice_size(node, place, shape[axis], bounds))
        axis += 1
    return found, 0, kept_rows


def _check_whole(node: Node, place: int, size: Size, bounds: tuple[list[Size], list[Size], list[Size]]) -> None:
    first, last, step = (numbers[place] for numbers in bounds)
    from_start = has_bit(node, "begin_mask", place) or first == ZERO
    to_end = has_bit(node, "end_mask", place) or last == size
    if has_bit(node, "shrink_axis_mask", place):
        raise UnsureError(f"takes row {first} out of the batch")
    if step != ONE or not from_start or not to_end:
        raise UnsureError("takes a part of the rows' axis, or turns it round")


def _check_own(node: Node, place: int, bounds: tuple[list[Size], list[Size], list[Size]]) -> None:
    first, last, step = (numbers[place] for numbers in bounds)
    begins = has_bit(node, "begin_mask", place) and not has_bit(node, "shrink_axis_mask", place)
    ends = has_bit(node, "end_mask", place) or has_bit(node, "shrink_axis_mask", place)
    if step.rows or (first.rows and not begins) or (last.rows and not ends):
        raise UnsureError("takes a part that follows from the number of rows")


def _slice_size(node: Node, place: int, size: Size, bounds: tuple[list[Size], list[Size], list[Size]]) -> Size:
    first, last, step = (numbers[place] for numbers in bounds)
    low = None if has_bit(node, "begin_mask", place) else first
    high = None if has_bit(node, "end_mask", place) else last
    if step == ONE and (low is None or low == ZERO) and high is None:
        return size
    if step.number == -1 and low is None and high is None:
        return size
    if size.number is not None and step.number:
        low_number = None if low is None else low.number
        high_number = None if high is None else high.number
        if (low is None or low_number is not None) and (high is None or high_number is not None):
            return Size.of(len(range(size.number)[slice(low_number, high_number, step.number)]))
    return node.fresh(f"part{place}")


RULES: dict[str, Rule] = {"Slice": slice_, "StridedSlice": strided_slice}
