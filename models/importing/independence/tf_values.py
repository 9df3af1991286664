"""Arithmetic on whole numbers that are known before a request arrives, or known in terms of its rows: shapes above all.

A function here takes a node and the values of all of its inputs and returns the values of its output, or None where
they cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from models.importing.independence.tf_node import Node
from models.importing.independence.tf_sizes import ONE, ZERO, Size, derived

Array = Any  # of sizes, dtype object
Fold = Callable[[Node, Sequence[Array]], "Array | None"]

INT32, INT64, BOOL = 3, 9, 10
LARGEST_ARRAY = 4096


def each(function: Callable[..., Size | None]) -> Fold:
    """Element by element, broadcast."""

    def fold(_node: Node, inputs: Sequence[Array]) -> Array | None:
        try:
            spread = np.broadcast_arrays(*inputs)
        except ValueError:
            return None
        found = [function(*values) for values in zip(*(array.ravel().tolist() for array in spread), strict=True)]
        return None if None in found else filled(found, spread[0].shape)

    return fold


def filled(values: Sequence[Any], shape: Sequence[int]) -> Array:
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array.reshape(tuple(shape))


def floor_div(left: Size, right: Size) -> Size | None:
    if left.number is not None and right.number:
        return Size.of(left.number // right.number)
    exact = left.over(right)
    return exact if exact is not None else derived("div", left, right)


def truncating_div(left: Size, right: Size) -> Size | None:
    exact = left.over(right)
    if exact is not None:
        return exact
    if left.number is None or right.number is None or left.number < 0 or right.number <= 0:
        return derived("tdiv", left, right)
    return Size.of(left.number // right.number)


def floor_mod(left: Size, right: Size) -> Size | None:
    if left.number is not None and right.number:
        return Size.of(left.number % right.number)
    return ZERO if left.over(right) is not None else derived("mod", left, right)


def maximum(left: Size, right: Size) -> Size:
    difference = (left - right).number
    if difference is None:
        return derived("max", *sorted((left, right), key=str))
    return left if difference >= 0 else right


def minimum(left: Size, right: Size) -> Size:
    difference = (left - right).number
    if difference is None:
        return derived("min", *sorted((left, right), key=str))
    return right if difference >= 0 else left


def compared(test: Callable[[int], bool]) -> Fold:
    def compare(left: Size, right: Size) -> Size | None:
        difference = (left - right).number
        return None if difference is None else Size.of(int(test(difference)))

    return each(compare)


def chosen(condition: Size, left: Size, right: Size) -> Size | None:
    if condition.number is None:
        return left if left == right else None
    return left if condition.number else right


def logic(test: Callable[..., bool]) -> Fold:
    def decide(*values: Size) -> Size | None:
        known = [value.number for value in values]
        return None if None in known else Size.of(int(test(*known)))

    return each(decide)


def cast(node: Node, inputs: Sequence[Array]) -> Array | None:
    target = node.dtype("DstT")
    if target in (INT32, INT64):
        return inputs[0]
    if target == BOOL:
        return logic(bool)(node, inputs)
    return None


def plain(array: Array) -> list[int] | None:
    found = [value.number for value in array.ravel().tolist()]
    return None if None in found else [int(value) for value in found if value is not None]


def axis_of(array: Array) -> int | None:
    found = plain(array)
    return found[0] if found and len(found) == 1 else None


def reshape(_node: Node, inputs: Sequence[Array]) -> Array | None:
    target = plain(inputs[1])
    return None if target is None else np.reshape(inputs[0], target)


def expand_dims(_node: Node, inputs: Sequence[Array]) -> Array | None:
    axis = axis_of(inputs[1])
    return None if axis is None else np.expand_dims(inputs[0], axis)


def squeeze(node: Node, inputs: Sequence[Array]) -> Array | None:
    return np.squeeze(inputs[0], tuple(node.integers("squeeze_dims")) or None)


def pack(node: Node, inputs: Sequence[Array]) -> Array | None:
    return np.stack(list(inputs), node.integer("axis"))


def concat(_node: Node, inputs: Sequence[Array]) -> Array | None:
    axis = axis_of(inputs[-1])
    return None if axis is None else np.concatenate(list(inputs[:-1]), axis)


def take(node: Node, inputs: Sequence[Array]) -> Array | None:
    indices, axis = plain(inputs[1]), axis_of(inputs[2]) if len(inputs) > 2 else 0
    if indices is None or axis is None or node.integer("batch_dims"):
        return None
    return np.take(inputs[0], np.reshape(np.array(indices, int), inputs[1].shape), axis)


def slice_(_node: Node, inputs: Sequence[Array]) -> Array | None:
    begin, size = plain(inputs[1]), plain(inputs[2])
    if begin is None or size is None:
        return None
    return inputs[0][tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))]


def strided_slice(node: Node, inputs: Sequence[Array]) -> Array | None:
    begin, end, step = (plain(array) for array in inputs[1:4])
    if begin is None or end is None or step is None:
        return None
    index: list[Any] = []
    for place in range(len(begin)):
        if has_bit(node, "ellipsis_mask", place):
            index.append(Ellipsis)
        elif has_bit(node, "new_axis_mask", place):
            index.append(None)
        elif has_bit(node, "shrink_axis_mask", place):
            index.append(begin[place])
        else:
            first = None if has_bit(node, "begin_mask", place) else begin[place]
            last = None if has_bit(node, "end_mask", place) else end[place]
            index.append(slice(first, last, step[place]))
    return np.array(inputs[0][tuple(index)], object)


def has_bit(node: Node, mask: str, place: int) -> bool:
    return bool(node.integer(mask) >> place & 1)


def reduced(start: Size, combine: Callable[[Size, Size], Size]) -> Fold:
    reduction = np.frompyfunc(combine, 2, 1, identity=start)

    def fold(node: Node, inputs: Sequence[Array]) -> Array | None:
        axes = plain(inputs[1])
        if axes is None:
            return None
        total = inputs[0]
        for axis in sorted({axis % inputs[0].ndim for axis in axes}, reverse=True):
            total = reduction.reduce(total, axis=axis, keepdims=node.flag("keep_dims"))
        return total if isinstance(total, np.ndarray) else filled([total], ())

    return fold


def extreme(combine: Callable[[Size, Size], Size]) -> Fold:
    """Of vectors alone, as `max(shape)` is."""

    def fold(node: Node, inputs: Sequence[Array]) -> Array | None:
        if plain(inputs[1]) not in ([0], [-1]) or inputs[0].ndim != 1 or not inputs[0].size:
            return None
        total = reduce(combine, inputs[0].tolist())
        return filled([total], (1,) if node.flag("keep_dims") else ())

    return fold


def range_(_node: Node, inputs: Sequence[Array]) -> Array | None:
    bounds = [axis_of(array) for array in inputs]
    if None in bounds or not bounds[2]:
        return None
    numbers = range(*[bound for bound in bounds if bound is not None])
    return None if len(numbers) > LARGEST_ARRAY else filled([Size.of(number) for number in numbers], (len(numbers),))


def fill(_node: Node, inputs: Sequence[Array]) -> Array | None:
    shape = plain(inputs[0])
    if shape is None or inputs[1].ndim or int(np.prod(shape)) > LARGEST_ARRAY:
        return None
    return np.broadcast_to(inputs[1], shape).copy()


def transpose(_node: Node, inputs: Sequence[Array]) -> Array | None:
    order = plain(inputs[1])
    return None if order is None else np.transpose(inputs[0], order)


def reverse(_node: Node, inputs: Sequence[Array]) -> Array | None:
    axes = plain(inputs[1])
    return None if axes is None else np.flip(inputs[0], tuple(axes))


def tile(_node: Node, inputs: Sequence[Array]) -> Array | None:
    times = plain(inputs[1])
    if times is None or int(np.prod(times)) * inputs[0].size > LARGEST_ARRAY:
        return None
    return np.tile(inputs[0], times)


def broadcast_to(_node: Node, inputs: Sequence[Array]) -> Array | None:
    shape = plain(inputs[1])
    if shape is None or int(np.prod(shape)) > LARGEST_ARRAY:
        return None
    return np.broadcast_to(inputs[0], shape).copy()


def like(value: Size) -> Fold:
    return lambda _node, inputs: filled([value] * inputs[0].size, inputs[0].shape)


_ADD, _MULTIPLY = each(lambda a, b: a + b), each(lambda a, b: a * b)

FOLDS: dict[str, Fold] = {
    **dict.fromkeys(("Identity", "StopGradient", "PreventGradient", "Snapshot"), lambda _node, inputs: inputs[0]),
    "Add": _ADD,
    "AddV2": _ADD,
    "Sub": each(lambda a, b: a - b),
    "Mul": _MULTIPLY,
    "Neg": each(lambda a: -a),
    "Square": each(lambda a: a * a),
    "FloorDiv": each(floor_div),
    "FloorMod": each(floor_mod),
    "TruncateDiv": each(truncating_div),
    "Div": each(truncating_div),
    "Maximum": each(maximum),
    "Minimum": each(minimum),
    "Equal": compared(lambda difference: difference == 0),
    "NotEqual": compared(lambda difference: difference != 0),
    "Less": compared(lambda difference: difference < 0),
    "LessEqual": compared(lambda difference: difference <= 0),
    "Greater": compared(lambda difference: difference > 0),
    "GreaterEqual": compared(lambda difference: difference >= 0),
    "LogicalAnd": logic(lambda a, b: bool(a and b)),
    "LogicalOr": logic(lambda a, b: bool(a or b)),
    "LogicalNot": logic(lambda a: not a),
    "SelectV2": each(chosen),
    "Cast": cast,
    "Reshape": reshape,
    "ExpandDims": expand_dims,
    "Squeeze": squeeze,
    "Pack": pack,
    "Concat": lambda node, inputs: concat(node, (*inputs[1:], inputs[0])),
    "ConcatV2": concat,
    "GatherV2": take,
    "Gather": take,
    "Slice": slice_,
    "StridedSlice": strided_slice,
    "Sum": reduced(ZERO, lambda a, b: a + b),
    "Prod": reduced(ONE, lambda a, b: a * b),
    "Max": extreme(maximum),
    "Min": extreme(minimum),
    "All": reduced(ONE, minimum),
    "Any": reduced(ZERO, maximum),
    "Range": range_,
    "Fill": fill,
    "Transpose": transpose,
    "ReverseV2": reverse,
    "Tile": tile,
    "BroadcastTo": broadcast_to,
    "ZerosLike": like(ZERO),
    "OnesLike": like(ONE),
}
