"""The walk over a graph: what holds for each tensor on the way from the inputs to the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from tensorflow.python.framework import op_def_registry, tensor_util  # type: ignore[import-untyped]

from models.importing.independence import tf_elementwise, tf_flow, tf_layers, tf_layout, tf_slices
from models.importing.independence.tf_facts import (
    Fact,
    Mixed,
    MixesError,
    Nothing,
    Resource,
    Rows,
    Shape,
    Shared,
    UnsureError,
    array_of,
    numbers,
)
from models.importing.independence.tf_node import Node
from models.importing.independence.tf_sizes import Size
from models.importing.independence.tf_values import BOOL, FOLDS, INT32, INT64, LARGEST_ARRAY

TABLE = {**tf_elementwise.RULES, **tf_layout.RULES, **tf_slices.RULES, **tf_layers.RULES, **tf_flow.LIST_RULES}

HAND_THROUGH = {"Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot", "PlaceholderWithDefault"}
HAND_THROUGH |= {"RefIdentity"}
TABLES = {"HashTable", "HashTableV2", "MutableHashTable", "MutableHashTableV2", "MutableHashTableOfTensorsV2"}
TABLES |= {"MutableDenseHashTableV2", "AnonymousHashTable"}
VARIABLES = {"Variable", "VariableV2"}
#: What runs beside the data, and neither keeps anything nor changes it.
HARMLESS = {"VarHandleOp", "ReadVariableOp", "VarIsInitializedOp", "DisableCopyOnRead", "Print", "PrintV2"}
HARMLESS |= {"LookupTableFind", "LookupTableFindV2", "LookupTableSize", "LookupTableSizeV2", "ResourceGather"}
HARMLESS |= {"RefIdentity", "RefSwitch", "RefMerge", "IsVariableInitialized"} | TABLES | VARIABLES
CHECKS = {"Assert", "CheckNumerics", "CheckNumericsV2"}
FLOW = tf_flow.CALLS | tf_flow.BRANCHES | tf_flow.LOOPS
OLD_LOOPS = {"Enter", "RefEnter", "NextIteration", "RefNextIteration", "Exit", "RefExit", "LoopCond"}
#: They are declared stateless, and yet may return what they like.
NOT_FUNCTIONS = {"PyFuncStateless", "Placeholder", "PlaceholderV2", "GetSessionTensor", "ReadFile", "MatchingFiles"}
#: They lose nothing of a tensor that varies, the other inputs being fixed (weights of zero apart).
LOSSLESS = {"Identity", "IdentityN", "Add", "AddV2", "Sub", "Mul", "RealDiv", "Neg", "BiasAdd", "MatMul", "Sigmoid"}
LOSSLESS |= {"Tanh", "Exp", "Reshape", "ExpandDims", "Squeeze", "Transpose"}
#: What rows have made of each other is still in the results of these, unless it meets itself again and cancels out.
CARRIES = LOSSLESS | {"Cast"}
VARIANT, RESOURCE = 21, 20
MOST_NODES = 2_000_000
DEEPEST_CALL = 60


@cache
def registered(op: str) -> Any | None:
    return op_def_registry.get(op)


class Evaluation:
    """One pass over a graph and its functions. `problems` holds what forbids any conclusion, such as kept state."""

    def __init__(self, library: Mapping[str, Any]) -> None:
        self.library = library
        self.problems: list[str] = []
        self._left = MOST_NODES
        self._depth = 0

    def call(self, function: str, inputs: Sequence[Fact], path: str, guard: str = "") -> list[Fact]:
        """The facts of what a function returns. Raises UnsureError."""
        definition = self.library.get(function)
        if definition is None or self._depth > DEEPEST_CALL:
            raise UnsureError(f"calls {function}, which is not in the graph, or calls itself")
        if definition.signature.attr:
            raise UnsureError(f"calls {function}, which takes types or numbers from its caller")
        names = [argument.name for argument in definition.signature.input_arg]
        if len(names) != len(inputs):
            raise UnsureError(f"calls {function} with {len(inputs)} inputs instead of {len(names)}")
        frame = Frame(self, definition.node_def, dict(zip(names, inputs, strict=True)), path, guard)
        self._depth += 1
        try:
            found = frame.facts([definition.ret[result.name] for result in definition.signature.output_arg])
            frame.run(definition.node_def)
        finally:
            self._depth -= 1
        return found

    def definition(self, op: str) -> Any | None:
        found = registered(op)
        return found if found is not None or op not in self.library else self.library[op].signature

    def count_node(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooLargeError


class TooLargeError(Exception):
    """The graph, with all that it calls, is too large to look through."""


class Frame:
    """One call of a function, or the graph itself. `given` holds what comes in from outside, by the edge's name."""

    def __init__(
        self, evaluation: Evaluation, protos: Iterable[Any], given: Mapping[str, Fact], path: str, guard: str = ""
    ) -> None:
        self._evaluation = evaluation
        self._protos = {proto.name: proto for proto in protos}
        self._given = given
        self._path = path
        self._guard = guard
        self._done: dict[str, tuple[Fact, ...]] = {}
        self._switches = any(proto.op in ("Switch", "RefSwitch") for proto in self._protos.values())

    def facts(self, edges: Iterable[str]) -> list[Fact]:
        edges = list(edges)
        self._settle([edge for edge in edges if not self._outside(edge)])
        return [self._fact(edge) for edge in edges]

    def run(self, protos: Iterable[Any]) -> None:
        """Look at what is executed for its effect, whether or not anything is made of its result."""
        for proto in protos:
            definition = self._evaluation.definition(proto.op)
            if definition is None:
                self._problem(proto, "is not known to TensorFlow, and may do anything")
            elif proto.op in ("Switch", "RefSwitch"):
                self._check_switch(proto)
            elif proto.op in CHECKS:
                self._check_failure(proto)
            elif proto.op in FLOW or proto.op in self._evaluation.library:
                self.facts([edge for edge in proto.input if not edge.startswith("^")])
                self._settle([proto.name])
            elif keeps_state(definition) and proto.op not in HARMLESS:
                what = "draws random numbers" if "Random" in proto.op else "keeps or changes state, or may do so"
                self._problem(proto, what)

    def reached(self, edges: Iterable[str]) -> list[Any]:
        """All nodes that must run for these edges."""
        waiting, seen = [base(edge) for edge in edges if not self._outside(edge)], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self._protos:
                continue
            seen.add(name)
            waiting += [base(edge) for edge in self._protos[name].input if not self._outside(edge)]
        return [self._protos[name] for name in self._protos if name in seen]

    def _problem(self, proto: Any, why: str) -> None:
        self._evaluation.problems.append(f"{proto.op} ({proto.name}) {why}")

    def _check_switch(self, proto: Any) -> None:
        (chosen,) = self.facts([proto.input[1]])
        if not isinstance(chosen, Shared | Nothing):
            self._problem(proto, "takes one branch for the whole batch by what it holds")

    def _check_failure(self, proto: Any) -> None:
        """A batch that fails is answered row by row: so a check is right if it fails wherever one row alone fails."""
        (checked,) = self.facts([proto.input[0]])
        if isinstance(checked, Nothing):
            return
        if isinstance(checked, Shared) and (self._guard != "mixed" or (checked.values == (Size.of(1),))):
            return
        holds_for_each = isinstance(checked, Mixed) and checked.all_rows if proto.op == "Assert" else False
        by_row = isinstance(checked, Rows) and proto.op != "Assert"
        if self._guard == "mixed" or not (holds_for_each or by_row):
            self._problem(proto, "refuses the batch by what its rows hold together")

    def _outside(self, edge: str) -> bool:
        return edge in self._given or f"{edge}:0" in self._given

    def _fact(self, edge: str) -> Fact:
        if edge in self._given:
            return self._given[edge]
        if f"{edge}:0" in self._given:
            return self._given[f"{edge}:0"]
        outputs = self._done.get(base(edge), ())
        place = self._place(edge)
        return outputs[place] if place < len(outputs) else Mixed(f"{edge} is not in the graph")

    def _place(self, edge: str) -> int:
        name, *rest = edge.split(":")
        if len(rest) < 2:  # NODE:INDEX of a graph
            return int(rest[0]) if rest else 0
        node = self._node(self._protos[name])  # NODE:OUTPUT:INDEX of a function
        before = 0
        for argument in node.definition.output_arg:
            if argument.name == rest[0]:
                return before + int(rest[1])
            before += node.count(argument)
        raise UnsureError(f"{edge} is not in the graph")

    def _settle(self, edges: Iterable[str]) -> None:
        stack = [base(edge) for edge in edges]
        opened: set[str] = set()
        while stack:
            name = stack[-1]
            if name in self._done:
                stack.pop()
                continue
            missing = [other for other in self._needs(name) if other not in self._done]
            if not missing:
                self._done[name] = self._evaluated(name)
            elif any(other in opened for other in missing):
                self._done[name] = self._several(name, Mixed(f"{name} is part of a loop of TensorFlow 1"))
            else:
                opened.add(name)
                stack += missing

    def _needs(self, name: str) -> list[str]:
        proto = self._protos.get(name)
        if proto is None or proto.op in OLD_LOOPS:
            return []
        edges = [edge for edge in proto.input if self._switches or not edge.startswith("^")]
        return [base(edge) for edge in edges if not self._outside(edge.removeprefix("^"))]

    def _node(self, proto: Any) -> Node:
        return Node(proto, self._evaluation.definition(proto.op), self._path)

    def _several(self, name: str, fact: Fact) -> tuple[Fact, ...]:
        proto = self._protos.get(name)
        node = None if proto is None else self._node(proto)
        return (fact,) * (1 if node is None or node.definition is None else max(1, node.output_count))

    def _evaluated(self, name: str) -> tuple[Fact, ...]:
        self._evaluation.count_node()
        proto = self._protos.get(name)
        if proto is None:
            return (Mixed(f"{name} is not in the graph"),)
        node = self._node(proto)
        if node.definition is None:
            return (Mixed(f"{node.op} ({name}) is not known to TensorFlow"),) * 16
        if node.op in OLD_LOOPS:
            return self._several(name, Mixed(f"{node.op} ({name}) is part of a loop of TensorFlow 1"))
        try:
            inputs = [self._fact(edge) for edge in proto.input if not edge.startswith("^")]
            if self._dead(proto):
                return self._several(name, Nothing())
            found = tuple(self._applied(node, inputs))
        except MixesError as error:
            varies = any(isinstance(fact, Rows) and fact.varies for fact in inputs)
            return self._several(name, Mixed(f"{node.op} ({name}) {error}", certain=varies))
        except UnsureError as error:
            return self._several(name, weak(node, inputs) or Mixed(f"{node.op} ({name}) {error}"))
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
            why = "is used in a way that is not understood"
            return self._several(name, weak(node, inputs) or Mixed(f"{node.op} ({name}) {why}"))
        return found

    def _dead(self, proto: Any) -> bool:
        """Whether a branch of TensorFlow 1 that is never taken holds the node, though it takes nothing from it."""
        controls = [edge.removeprefix("^") for edge in proto.input if edge.startswith("^")] if self._switches else []
        return any(isinstance(self._done.get(edge, (None,))[0], Nothing) for edge in controls if self._done.get(edge))

    def _applied(self, node: Node, inputs: list[Fact]) -> Sequence[Fact]:
        if node.op in FLOW or node.op in self._evaluation.library:
            return self._flow(node, inputs)
        if node.op in ("Merge", "RefMerge"):
            return merged(node, inputs)
        if any(isinstance(fact, Nothing) for fact in inputs):
            return self._several(node.name, Nothing())
        if node.op in HAND_THROUGH:
            return inputs
        if node.op in ("Switch", "RefSwitch"):
            return switched(inputs)
        if any(isinstance(fact, Mixed) for fact in inputs):
            return self._several(node.name, mixed(node, [fact for fact in inputs if isinstance(fact, Mixed)], inputs))
        return evaluated(node, inputs)

    def _flow(self, node: Node, inputs: list[Fact]) -> Sequence[Fact]:
        if inputs and isinstance(inputs[0], Nothing):
            return self._several(node.name, Nothing())
        if node.op in tf_flow.BRANCHES:
            return tf_flow.branch(self._evaluation, node, inputs, self._guard)
        if node.op in tf_flow.LOOPS:
            return tf_flow.loop(self._evaluation, node, inputs, self._guard)
        if node.op in tf_flow.CALLS:
            return tf_flow.call(self._evaluation, node, inputs, self._guard)
        return self._evaluation.call(node.op, inputs, f"{node.path}/{node.name}|", self._guard)


def keeps_state(definition: Any) -> bool:
    """Whether an operation may. TensorFlow 1 declares those that write to a reference stateless."""
    return definition.is_stateful or any(
        argument.is_ref or argument.type == RESOURCE for argument in definition.input_arg
    )


def base(edge: str) -> str:
    return edge.removeprefix("^").partition(":")[0]


def merged(node: Node, inputs: Sequence[Fact]) -> Sequence[Fact]:
    """One of the branches was taken; `Frame.run` has seen to it that the choice is the same for all batches."""
    found: Fact = Nothing()
    for fact in inputs:
        found = tf_flow.either(found, fact, node.fresh)
    return found, Nothing() if isinstance(found, Nothing) else Shared(())


def switched(inputs: Sequence[Fact]) -> Sequence[Fact]:
    value, chosen = inputs
    if not isinstance(chosen, Shared):
        return (Mixed("a branch of TensorFlow 1 is taken by what the batch holds"),) * 2
    if chosen.values is None:
        return value, value
    return (Nothing(), value) if chosen.values[0].number else (value, Nothing())


def mixed(node: Node, found: Sequence[Mixed], inputs: Sequence[Fact]) -> Mixed:
    if node.op in ("LogicalAnd", "All") and all(
        isinstance(fact, Shared) or (isinstance(fact, Mixed) and fact.all_rows) for fact in inputs
    ):
        return found[0]
    if len(found) == 1 and found[0].certain and node.op in CARRIES:
        return found[0]
    return replace(found[0], certain=False, all_rows=False)


def evaluated(node: Node, inputs: Sequence[Fact]) -> Sequence[Fact]:
    """Raises UnsureError."""
    source = sources(node, inputs)
    if source is not None:
        return (source,)
    values = [array_of(fact) for fact in inputs]
    if node.op in FOLDS and values and not any(array is None for array in values):
        folded = FOLDS[node.op](node, values)
        if folded is not None:
            return (numbers(folded),)
    rule = TABLE.get(node.op)
    if rule is None:
        found = weak(node, inputs)
        if found is None:
            raise UnsureError("is not in the table of operations that are known to keep rows apart")
        return (found,) * node.output_count
    answer = rule(node, *inputs)
    answers = answer if isinstance(answer, tuple) else (answer,)
    if node.op in LOSSLESS and sum(isinstance(fact, Rows) for fact in inputs) == 1:
        return answers
    return [replace(fact, varies=False) if isinstance(fact, Rows) else fact for fact in answers]


def sources(node: Node, inputs: Sequence[Fact]) -> Fact | None:
    """What is there before any request."""
    if node.op == "Const":
        return constant(node)
    if node.op == "VarHandleOp":
        return Resource(declared(node))
    if node.op in TABLES:
        return Resource(table=True)
    if node.op in VARIABLES:
        return Shared(declared(node))
    if node.op == "ReadVariableOp":
        if not isinstance(inputs[0], Resource) or inputs[0].table:
            raise UnsureError("reads something that is no variable")
        return Shared(inputs[0].shape)
    if node.op in ("Placeholder", "PlaceholderV2"):
        raise UnsureError("is an input that is not in the signature")
    return None


def constant(node: Node) -> Fact:
    proto = node.attr("value").tensor
    shape = [dim.size for dim in proto.tensor_shape.dim]
    count = 1
    for size in shape:
        count *= size
    sizes = tuple(Size.of(size) for size in shape)
    if proto.dtype in (VARIANT, RESOURCE):
        raise UnsureError("is a constant of a kind that is not known")
    if proto.dtype not in (INT32, INT64, BOOL) or count > LARGEST_ARRAY:
        return Shared(sizes)
    values = tensor_util.MakeNdarray(proto).ravel().tolist()
    found = tuple(Size.of(int(value)) for value in values)
    return Shared(sizes, found) if all(value.small for value in found) else Shared(sizes)


def declared(node: Node) -> Shape | None:
    proto = node.attr("shape").shape
    if proto.unknown_rank:
        return None
    return tuple(node.fresh(place) if dim.size < 0 else Size.of(dim.size) for place, dim in enumerate(proto.dim))


def weak(node: Node, inputs: Sequence[Fact]) -> Shared | None:
    """What any function of Shared tensors gives, if the operation is a function."""
    definition = node.definition
    if definition is None or keeps_state(definition) or node.op in NOT_FUNCTIONS or node.op in FLOW:
        return None
    if node.op in tf_flow.LIST_RULES or node.op in OLD_LOOPS or not all(isinstance(fact, Shared) for fact in inputs):
        return None
    handles = {VARIANT, RESOURCE}
    if any(argument.type in handles for argument in definition.output_arg):
        return None
    if any(node.dtype(argument.type_attr) in handles for argument in definition.output_arg if argument.type_attr):
        return None
    if any(argument.type_list_attr for argument in definition.output_arg):
        return None
    return Shared()
