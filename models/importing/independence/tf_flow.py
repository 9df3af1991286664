"""Calls, branches, loops and lists: where one node stands for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from models.importing.independence.tf_elementwise import needs_rows, needs_shape
from models.importing.independence.tf_facts import (
    Counts,
    Fact,
    Listed,
    Mixed,
    Nothing,
    Rows,
    Shape,
    Shared,
    UnsureError,
    constants,
    reshaped,
    rows,
    shared,
)
from models.importing.independence.tf_layout import sizes
from models.importing.independence.tf_node import Node
from models.importing.independence.tf_sizes import ONE, Atom, Size

CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
LOOPS = {"While", "StatelessWhile"}

#: Each round makes at least one fact of a loop's state weaker, so that a few are enough.
MOST_ROUNDS = 200

Name = Callable[[object], Size]


class Walk(Protocol):
    """What the rules here ask of the walk over the graph."""

    def call(self, function: str, inputs: Sequence[Fact], path: str, guard: str = "") -> list[Fact]:
        """Raises UnsureError for a function that is not there. `guard`: "else" where rows that fail lead here."""


# -- one fact for either of two ---------------------------------------------------------------------------------------


def either(left: Fact, right: Fact, name: Name) -> Fact:
    """What holds for a tensor that is one or the other, the same for all rows. `name` names a size that may differ."""
    if isinstance(left, Nothing) or left == right:
        return right
    if isinstance(right, Nothing):
        return left
    for fact in (left, right):
        if isinstance(fact, Mixed):
            return replace(fact, certain=False, all_rows=False)
    if isinstance(left, Listed) and isinstance(right, Listed):
        return _either_list(left, right)
    if isinstance(left, Shared) and isinstance(right, Shared):
        return Shared(_either_shape(left.shape, right.shape, name))
    if isinstance(left, Rows) and isinstance(right, Rows):
        return _either_rows(left, right, name)
    return Mixed("a loop or a branch makes of one tensor either rows or something else")


def _either_shape(left: Shape | None, right: Shape | None, name: Name) -> Shape | None:
    if left is None or right is None or len(left) != len(right):
        return None
    return tuple(a if a == b else name(axis) for axis, (a, b) in enumerate(zip(left, right, strict=True)))


def _either_rows(left: Rows, right: Rows, name: Name) -> Fact:
    if (left.axis, len(left.shape), left.outer, left.inner) != (right.axis, len(right.shape), right.outer, right.inner):
        return Mixed("a loop or a branch lays the rows along different axes")
    shape = _either_shape(left.shape, right.shape, name) or ()
    return replace(left, shape=shape, varies=left.varies or right.varies)


def _either_list(left: Listed, right: Listed) -> Fact:
    length = left.length if left.length == right.length else None
    if left.element is None or right.element is None:
        return replace(left if right.element is None else right, length=length)
    element = either(left.element, right.element, lambda _axis: ONE)
    if not isinstance(element, Shared | Rows):
        return element
    if left.shape is None or right.shape is None or len(left.shape) != len(right.shape):
        return Listed(element, None, length)
    shape = tuple(a if a == b else None for a, b in zip(left.shape, right.shape, strict=True))
    return Listed(element, shape, length)


def settled(fact: Fact, scope: str, name: Name) -> Fact:
    """The fact after one turn of a loop, without what is true of that turn alone: sizes that were named within it."""

    def inner(size: Size) -> bool:
        return any(scope in atom.name for atom in size.atoms)

    def outside(shape: Shape) -> Shape:
        return tuple(name(axis) if inner(size) else size for axis, size in enumerate(shape))

    if isinstance(fact, Shared):
        values = None if fact.values is None or any(map(inner, fact.values)) else fact.values
        return Shared(None if fact.shape is None else outside(fact.shape), values)
    if isinstance(fact, Rows):
        if inner(fact.outer) or inner(fact.inner):
            return Mixed("a loop lays the rows in another order at each turn")
        return replace(fact, shape=outside(fact.shape))
    if isinstance(fact, Counts) and any(map(inner, fact.values)):
        return Mixed("a loop computes with the number of rows")
    if isinstance(fact, Listed):
        return _settled_list(fact, inner)
    return fact


def _settled_list(fact: Listed, inner: Callable[[Size], bool]) -> Fact:
    if isinstance(fact.element, Rows) and (inner(fact.element.outer) or inner(fact.element.inner)):
        return Mixed("a loop lays the rows in another order at each turn")
    shape = fact.shape
    if shape is not None:
        shape = tuple(None if size is None or inner(size) else size for size in shape)
    length = None if fact.length is None or inner(fact.length) else fact.length
    return Listed(fact.element, shape, length)


# -- calls, branches, loops -------------------------------------------------------------------------------------------


def call(walk: Walk, node: Node, inputs: Sequence[Fact], guard: str) -> list[Fact]:
    return walk.call(node.attr("f").func.name, inputs, f"{node.path}/{node.name}|", guard)


def branch(walk: Walk, node: Node, inputs: Sequence[Fact], guard: str) -> list[Fact]:
    chosen, given = inputs[0], inputs[1:]
    if node.op.endswith("If"):
        functions = [node.attr("else_branch").func.name, node.attr("then_branch").func.name]
    else:
        functions = [function.name for function in node.attr("branches").list.func]
    paths = [f"{node.path}/{node.name}!{place}" for place in range(len(functions))]
    number = constants(chosen)
    if number is not None and isinstance(chosen, Shared) and chosen.shape == ():
        taken = int(number[0] != 0) if node.op.endswith("If") else number[0]
        taken = taken if 0 <= taken < len(functions) else len(functions) - 1  # as Case does
        return walk.call(functions[taken], given, paths[taken], guard)
    if isinstance(chosen, Shared):
        answers = [walk.call(name, given, path, guard) for name, path in zip(functions, paths, strict=True)]
        return _joined(node, answers)
    for place, (name, path) in enumerate(zip(functions, paths, strict=True)):
        # The branch runs, or does not, by what all rows of the batch hold. It may still fail in this way.
        fails_with_a_row = isinstance(chosen, Mixed) and chosen.all_rows and node.op.endswith("If") and place == 0
        walk.call(name, given, path, "else" if fails_with_a_row else "mixed")
    why = chosen.reason if isinstance(chosen, Mixed) else "what it follows from is no Shared truth"
    return [Mixed(f"{node.op} ({node.name}) takes one branch for the whole batch: {why}")] * len(
        node.attr("Tout").list.type
    )


def _joined(node: Node, answers: Sequence[Sequence[Fact]]) -> list[Fact]:
    found = list(answers[0])
    for answer in answers[1:]:
        found = [
            either(left, right, lambda axis, place=place: node.fresh(f"{place}.{axis}"))  # type: ignore[misc]
            for place, (left, right) in enumerate(zip(found, answer, strict=True))
        ]
    return found


def loop(walk: Walk, node: Node, inputs: Sequence[Fact], guard: str) -> list[Fact]:
    """The facts that hold before each turn, however many there are; their number must be the same for all requests."""
    path = f"{node.path}/{node.name}"
    body, condition = node.attr("body").func.name, node.attr("cond").func.name
    scope = f"{path}!body/"
    heads = list(inputs)
    for _ in range(MOST_ROUNDS):
        turned = [
            settled(fact, scope, _head_size(node, place))
            for place, fact in enumerate(walk.call(body, heads, f"{path}!body", guard))
        ]
        joined = [
            either(head, fact, _head_size(node, place))
            for place, (head, fact) in enumerate(zip(heads, turned, strict=True))
        ]
        if joined == heads:
            break
        heads = joined
    else:
        raise UnsureError("has no state that stays as it is from turn to turn")
    (goes_on,) = walk.call(condition, heads, f"{path}!cond", guard)
    if isinstance(goes_on, Shared):
        return heads
    walk.call(body, heads, f"{path}!body", "mixed")  # checks in it run as often as the whole batch asks
    walk.call(condition, heads, f"{path}!cond", "mixed")
    why = goes_on.reason if isinstance(goes_on, Mixed) else "the condition follows from the batch"
    return [Mixed(f"{node.op} ({node.name}) turns as often as the whole batch asks: {why}")] * len(heads)


def _head_size(node: Node, place: int) -> Name:
    return lambda axis: Size.of(Atom(f"{node.path}/{node.name}!head{place}.{axis}"))


# -- TensorLists ------------------------------------------------------------------------------------------------------


def reserve(_node: Node, shape: Fact, count: Fact) -> Fact:
    if not isinstance(count, Shared) or not isinstance(shape, Shared | Counts):
        raise UnsureError("has as many entries as the batch has rows")
    length = count.values[0] if count.values else None
    return Listed(None, None, length)


def from_tensor(_node: Node, x: Fact, _shape: Fact) -> Fact:
    shape = needs_shape(x)
    if not shape:
        raise UnsureError("makes a list of a scalar")
    if isinstance(x, Shared):
        element: Shared | Rows = shared(shape[1:])
    else:
        held = needs_rows(x)
        if held.axis == 0:
            raise UnsureError("makes a list of the rows, to work on one after another")
        element = reshaped(held, shape[1:], held.axis - 1)
    return Listed(element, shape[1:], shape[0])


def read(node: Node, listed: Fact, index: Fact, shape: Fact) -> Fact:
    if not isinstance(listed, Listed) or not isinstance(index, Shared):
        raise UnsureError("reads a list at a place that follows from the batch")
    element = _element(node, listed)
    if not isinstance(shape, Shared | Counts) or shape.values is None:
        raise UnsureError("reads an entry of a shape that is not known before the call")
    known = all(value.number is None or value.number >= 0 for value in shape.values)
    if known and element.shape != shape.values:
        raise UnsureError("may read an entry that was never written")
    return element


def _element(node: Node, listed: Listed) -> Shared | Rows:
    if listed.element is None or listed.shape is None:
        if isinstance(listed.element, Shared):
            return Shared()
        raise UnsureError("reads from a list that nothing is known to be written to")
    shape = tuple(node.fresh(f"entry{axis}") if size is None else size for axis, size in enumerate(listed.shape))
    if isinstance(listed.element, Shared):
        return shared(shape)
    return reshaped(listed.element, shape, listed.element.axis)


def write(node: Node, listed: Fact, index: Fact, item: Fact) -> Fact:
    if not isinstance(listed, Listed) or not isinstance(index, Shared):
        raise UnsureError("writes to a list at a place that follows from the batch")
    grows = node.flag("resize_if_index_out_of_bounds")
    return _written(listed, item, None if grows else listed.length)


def _written(listed: Listed, item: Fact, length: Size | None) -> Fact:
    if not isinstance(item, Shared | Rows):
        raise UnsureError("writes to a list what follows from the number of rows, or another list")
    if isinstance(item, Shared):
        item = Shared(item.shape)
    added = Listed(item, item.shape, length)
    return either(replace(listed, length=length), added, lambda _axis: ONE)


def stack(node: Node, listed: Fact, _shape: Fact) -> Fact:
    if not isinstance(listed, Listed):
        raise UnsureError("stacks something that is no list")
    element = _element(node, listed)
    length = node.integer("num_elements")
    first = Size.of(length) if length >= 0 else listed.length or node.fresh("length")
    if isinstance(element, Shared):
        return shared(None if element.shape is None else (first, *element.shape))
    return rows((first, *element.shape), element.axis + 1, element.outer, element.inner, element.varies)


def gather_list(node: Node, listed: Fact, indices: Fact, shape: Fact) -> Fact:
    if not isinstance(indices, Shared):
        raise UnsureError("reads a list at places that follow from the batch")
    if not isinstance(listed, Listed):
        raise UnsureError("reads something that is no list")
    count = indices.shape[0] if indices.shape else node.fresh("count")
    read(node, listed, Shared(()), shape)
    return stack(node, replace(listed, length=count), shape)


def empty(_node: Node, shape: Fact, _most: Fact) -> Fact:
    if not isinstance(shape, Shared | Counts):
        raise UnsureError("takes a shape from the batch")
    return Listed(None, None, Size.of(0))


def push(_node: Node, listed: Fact, item: Fact) -> Fact:
    if not isinstance(listed, Listed):
        raise UnsureError("adds to something that is no list")
    return _written(listed, item, None if listed.length is None else listed.length + ONE)


def pop(node: Node, listed: Fact, shape: Fact) -> tuple[Fact, Fact]:
    if not isinstance(listed, Listed):
        raise UnsureError("takes from something that is no list")
    length = None if listed.length is None else listed.length - ONE
    return replace(listed, length=length), read(node, listed, Shared(()), shape)


def list_length(_node: Node, listed: Fact) -> Fact:
    if not isinstance(listed, Listed):
        raise UnsureError("counts something that is no list")
    return Shared((), None if listed.length is None else (listed.length,))


def list_resize(node: Node, listed: Fact, size: Fact) -> Fact:
    if not isinstance(listed, Listed) or not isinstance(size, Shared):
        raise UnsureError("makes a list as long as follows from the batch")
    return replace(listed, length=sizes(node, replace(size, shape=(ONE,)))[0])


LIST_RULES = {
    "TensorListReserve": reserve,
    "TensorListFromTensor": from_tensor,
    "TensorListGetItem": read,
    "TensorListSetItem": write,
    "TensorListStack": stack,
    "TensorListGather": gather_list,
    "EmptyTensorList": empty,
    "TensorListPushBack": push,
    "TensorListPopBack": pop,
    "TensorListLength": list_length,
    "TensorListResize": list_resize,
}
