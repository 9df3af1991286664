"""Whether a TorchScript module answers each row by that row alone, concluded from its graph.

The graph is run on what is known of its values for every batch (torch_values), by a table of operations (torch_table).
What the table does not know, control flow that may depend on rows, state that is kept between calls, and chance end in
`unknown`. `independent` holds for batches of at least one row whose other sizes agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product as combinations
from typing import Any

import torch

from models.importing.independence.finding import Finding
from models.importing.independence.torch_table import run
from models.importing.independence.torch_values import (
    NONE,
    SCALARS,
    Counted,
    DoubtError,
    Entries,
    Fixed,
    Instance,
    Items,
    Known,
    Mixed,
    Nothing,
    Number,
    Regions,
    RowDim,
    Size,
    Symbol,
    Tensor,
    Texts,
    Tupled,
    Value,
    Varies,
    forgotten,
    joined,
    leaves,
    recalled,
    same,
)
from models.spec import TensorSpec

STEPS_AT_MOST = 100_000
TURNS_WRITTEN_OUT = 256
PASSES_AT_MOST = 20
OPTIONAL_AT_MOST = 4
KINDS = {"INT64": "i", "INT32": "i", "BOOL": "b", "FP32": "f", "FP64": "f", "FP16": "f", "BF16": "f"}


def analyse(module: torch.jit.ScriptModule, inputs: Sequence[TensorSpec]) -> Finding:
    """Of its `forward`, called with `inputs` in this order, in the mode (training or evaluation) that it is in."""
    try:
        for given in presences(inputs):
            finding = Walk(module).analysed(inputs, given)
            if finding.rows != "independent":
                return finding
        return finding
    except DoubtError as error:
        return Finding("unknown", str(error))
    except RecursionError:
        return Finding("unknown", "its graph is nested too deep")
    except Exception as error:  # whatever a graph holds that nobody thought of: it is not known
        return Finding("unknown", f"the analysis failed: {type(error).__name__}: {error}")


def presences(inputs: Sequence[TensorSpec]) -> Iterator[tuple[bool, ...]]:
    """Which inputs are given: all, and each choice of those that may be left out."""
    optional = [bool(getattr(spec, "optional", False)) for spec in inputs]
    if sum(optional) > OPTIONAL_AT_MOST:
        raise DoubtError(f"more than {OPTIONAL_AT_MOST} inputs may be left out")
    return combinations(*((True, False) if may_lack else (True,) for may_lack in optional))


def value_of(place: int, spec: TensorSpec) -> Value:
    if not spec.shape or spec.shape[0] != -1:
        raise DoubtError(f"input {spec.name} has no free first dimension, so that requests cannot share it")
    if spec.datatype == "BYTES":
        if len(spec.shape) > 1:
            raise DoubtError(f"input {spec.name} holds several texts a row")
        return Texts()
    sizes = [
        Size(1, (Symbol(f"{spec.name}[{place}.{axis}]"),)) if size == -1 else Size(size)
        for axis, size in enumerate(spec.shape)
    ]
    return Tensor((RowDim(), *sizes[1:]), KINDS.get(spec.datatype, ""))


def constant(value: Any) -> Value:
    """An attribute or a constant of the graph: the same for all calls, and not to be written."""
    if isinstance(value, torch.Tensor):
        if value.is_sparse or value.is_nested:
            raise DoubtError("a weight is sparse or nested")
        if value.dtype == torch.int64 and not value.dim():
            return Counted(Known(value.item()))  # traced graphs compute sizes with them
        kinds = {torch.int64: "i", torch.int32: "i", torch.bool: "b"}
        return Tensor(tuple(map(Size, value.shape)), kinds.get(value.dtype, "f"), writable=False)
    if isinstance(value, (bool, int, float, complex, str, type(None), torch.device, torch.dtype)):
        return Known(value)
    if isinstance(value, tuple):
        return Tupled(tuple(map(constant, value)), tuple(getattr(value, "_fields", ())))
    if isinstance(value, list):
        return Items(list(map(constant, value)), writable=False)
    if isinstance(value, dict):
        return Entries({key: constant(part) for key, part in value.items()}, writable=False)
    return Instance(value)


def verdict(outputs: Value) -> Finding:
    """Of the values that `forward` returns."""
    found = list(leaves(outputs))
    certain = [leaf for leaf in found if isinstance(leaf, Mixed) and leaf.certain]
    if certain:
        return Finding("dependent", certain[0].reason)
    tensors = 0
    for place, leaf in enumerate(found):
        which = f"output {place}" if len(found) > 1 else "the output"
        if isinstance(leaf, Mixed):
            return Finding("unknown", leaf.reason)
        if leaf == NONE:
            continue
        if isinstance(leaf, Varies):
            return Finding("unknown", f"{which} is a number: {leaf.reason}")
        if not isinstance(leaf, Tensor):
            return Finding("unknown", f"{which} is no tensor")
        if leaf.row_axis is None:
            return Finding("unknown", f"{which}, {leaf}, has no row for each row of input")
        if leaf.dims[0] != RowDim():
            return Finding("unknown", f"{which}, {leaf}, does not have the rows on its first axis")
        tensors += 1
    if isinstance(outputs, Items) and outputs.values is None:
        return Finding("unknown", "how many outputs there are is not known")
    if not tensors:
        return Finding("unknown", "it has no output")
    return Finding("independent", "each operation from the inputs to the outputs keeps rows apart")


def source_line(node: Any) -> str:
    """Where in the model's code: what follows the last file that is named, without its folder."""
    text = str(node.sourceRange())
    found = re.findall(r'File "([^"]*)", line (\d+)[^\n]*\n((?:.*\n?)*?)(?=  *[~<]|\Z)', text)
    if not found:
        return ""
    path, line, code = found[-1]
    last = code.strip().splitlines()[-1].strip() if code.strip() else ""
    return f" ({path.rpartition('/')[2]}:{line}{': ' + last if last else ''})"


@dataclass
class Walk:
    """One run over the graph of `module.forward`."""

    module: Any
    regions: Regions = field(default_factory=Regions)
    known: dict[str, Value] = field(default_factory=dict)
    steps: int = 0

    def analysed(self, inputs: Sequence[TensorSpec], given: Sequence[bool]) -> Finding:
        if self.module._c._get_forward_hooks() or self.module._c._get_forward_pre_hooks():
            raise DoubtError("it has hooks, which are not looked at")
        method = self.module._c._get_method("forward")
        graph = method.graph.copy()
        torch._C._jit_pass_inline(graph)
        values = [
            value_of(place, spec) if is_given else NONE
            for place, (spec, is_given) in enumerate(zip(inputs, given, strict=True))
        ]
        if not any(isinstance(value, (Tensor, Texts)) for value in values):
            raise DoubtError("no input has rows")
        arguments = arguments_of(method.schema.arguments[1:], inputs, values)
        for place, value in zip(graph.inputs(), [Instance(self.module._c), *arguments], strict=True):
            self.known[place.debugName()] = value
        self.block(graph)
        outputs = [self.known[value.debugName()] for value in graph.outputs()]
        return verdict(outputs[0] if len(outputs) == 1 else Tupled(tuple(outputs)))

    def block(self, block: Any) -> bool:
        """Whether its end is reached."""
        return all(self.node(node) for node in block.nodes())

    def node(self, node: Any) -> bool:
        """False where it raises."""
        self.steps += 1
        if self.steps > STEPS_AT_MOST:
            raise DoubtError("it takes too many steps to follow")
        kind = node.kind()
        if kind == "prim::RaiseException":
            return False
        if kind == "prim::If":
            return self.branches(node)
        if kind == "prim::Loop":
            return self.loop(node)
        try:
            found = self.structure(node) if kind in STRUCTURES else self.operation(node)
        except DoubtError as error:
            raise DoubtError(f"{error}{source_line(node)}") from error
        outputs = list(node.outputs())
        parts = [found] if len(outputs) == 1 else list(found.values) if isinstance(found, Tupled) else []
        if outputs and len(parts) != len(outputs):
            raise DoubtError(f"{kind} has other results than expected{source_line(node)}")
        for output, value in zip(outputs, parts, strict=True) if outputs else ():
            if isinstance(value, Mixed) and value.reason.startswith(kind) and "(" not in value.reason[-1:]:
                value = located(value, node, kind)
            self.known[output.debugName()] = value
        return True

    def operation(self, node: Any) -> Value:
        text = node.schema()
        kind = node.kind()
        if text == "(no schema)" or not kind.startswith(("aten::", "prim::", "quantized::")):
            raise DoubtError(f"{kind}: of this operation it is not known whether it keeps rows apart")
        schema = torch._C.parse_schema(text) if "..." not in text else None
        values = [self.known[value.debugName()] for value in node.inputs()]
        if schema is None:
            return run(
                kind, {str(place): value for place, value in enumerate(values)}, self.regions, writes=False, results=1
            )
        name = f"{kind}.{schema.overload_name}" if schema.overload_name else kind
        arguments = dict(zip([argument.name for argument in schema.arguments], values, strict=True))
        return run(name, arguments, self.regions, writes=schema.is_mutable, results=len(list(node.outputs())))

    def structure(self, node: Any) -> Value:
        kind = node.kind()
        values = [self.known[value.debugName()] for value in node.inputs()]
        [first, *_] = values or [NONE]
        if kind == "prim::Constant":
            return constant(node.output().toIValue())
        if kind == "prim::GetAttr":
            return self.attribute(node, first)
        if kind == "prim::TupleConstruct":
            return Tupled(tuple(values))
        if kind == "prim::ListConstruct":
            return Items(values, region=self.regions.tip)
        if kind == "prim::DictConstruct":
            return dict_of(values, self.regions)
        if kind == "prim::Uninitialized":
            return Nothing()
        return unpacked(first, len(list(node.outputs())), self.regions)

    def attribute(self, node: Any, holder: Value) -> Value:
        if not isinstance(holder, Instance):
            raise DoubtError("it reads an attribute of what is not known to be a module")
        name = node.s("name")
        target = holder.target
        if isinstance(target, torch._C.ScriptModule):
            return constant(target.getattr(name))  # type: ignore[attr-defined]
        raise DoubtError(f"it reads {name} of a {type(target).__name__}")

    def branches(self, node: Any) -> bool:
        condition = self.known[next(iter(node.inputs())).debugName()]
        blocks = list(node.blocks())
        if isinstance(condition, Known):
            return self.branch(node, blocks[0 if condition.value else 1])
        if not isinstance(condition, (Number, Fixed)) or (isinstance(condition, Number) and condition.size.rows):
            reason = f": {condition.reason}" if isinstance(condition, (Varies, Mixed)) else ""
            raise DoubtError(f"which branch it takes may depend on the batch{reason}{source_line(node)}")
        ends: list[list[Value]] = []
        for block in blocks:
            self.regions.enter()
            reached = self.block(block)
            found = [self.known[value.debugName()] for value in block.outputs()] if reached else []
            self.regions.leave()
            if reached:
                ends.append([forgotten(value, self.regions.tip) for value in found])
        if not ends:
            return False
        for place, output in enumerate(node.outputs()):
            value = ends[0][place] if len(ends) == 1 else self.joined(node, ends[0][place], ends[1][place])
            self.known[output.debugName()] = recalled(value, self.regions)
        return True

    def branch(self, node: Any, block: Any) -> bool:
        if not self.block(block):
            return False
        for output, value in zip(node.outputs(), block.outputs(), strict=True):
            self.known[output.debugName()] = self.known[value.debugName()]
        return True

    def joined(self, node: Any, one: Value, other: Value) -> Value:
        try:
            return joined(one, other)
        except DoubtError as error:
            raise DoubtError(f"{error}{source_line(node)}") from error

    def loop(self, node: Any) -> bool:
        names = [value.debugName() for value in node.inputs()]
        turns, goes_on, *carried = [self.known[name] for name in names]
        for value in (turns, goes_on):
            if (
                not isinstance(value, SCALARS)
                or isinstance(value, Varies)
                or (isinstance(value, Number) and value.size.rows)
            ):
                raise DoubtError(f"how often a loop runs may depend on the batch{source_line(node)}")
        block = next(iter(node.blocks()))
        if isinstance(turns, Known) and isinstance(goes_on, Known):
            begun = self.written_out(node, block, turns.value, bool(goes_on.value), carried)
            if begun is not None:
                return begun
        return self.settled(node, block, carried)

    def written_out(self, node: Any, block: Any, turns: int, goes_on: bool, carried: list[Value]) -> bool | None:
        """Turn by turn, where it is known how many there are. None: it is not, or they are too many."""
        if turns > TURNS_WRITTEN_OUT and not self.condition_is_computed(block):
            return None
        turn = 0
        while turn < turns and goes_on:
            if turn > TURNS_WRITTEN_OUT:
                raise DoubtError(f"a loop takes too many turns to follow{source_line(node)}")
            found = self.turn(block, Known(turn), carried)
            if found is None:
                return False
            condition, *carried = found
            if not isinstance(condition, Known):
                self.fixed_condition(node, condition)
                return self.settled(node, block, carried)
            goes_on, turn = bool(condition.value), turn + 1
        for output, value in zip(node.outputs(), carried, strict=True):
            self.known[output.debugName()] = value
        return True

    @staticmethod
    def condition_is_computed(block: Any) -> bool:
        """Of `while`: whether it goes on follows from the turn itself."""
        return bool(next(iter(block.outputs())).node().kind() != "prim::Constant")

    def turn(self, block: Any, place: Value, carried: Sequence[Value]) -> list[Value] | None:
        for parameter, value in zip(block.inputs(), [place, *carried], strict=True):
            self.known[parameter.debugName()] = value
        if not self.block(block):
            return None
        return [self.known[value.debugName()] for value in block.outputs()]

    def fixed_condition(self, node: Any, condition: Value) -> None:
        if not isinstance(condition, (Known, Fixed, Number)) or (isinstance(condition, Number) and condition.size.rows):
            raise DoubtError(f"when a loop ends may depend on the batch{source_line(node)}")

    def settled(self, node: Any, block: Any, carried: list[Value]) -> bool:
        """As often as it may run: until no turn tells more of what one turn leaves to the next."""
        state = carried
        # What shares memory travels one carried value a pass, and only writing in place asks for it.
        passes = len(carried) + 2 if any(map(writes, nodes_of(block))) else 1
        for number in range(1, max(PASSES_AT_MOST, passes) + 1):
            changes = self.regions.changes
            self.regions.enter()
            found = self.turn(block, Number(self.regions.fresh()), [recalled(value, self.regions) for value in state])
            self.regions.leave()
            if found is None:
                break
            self.fixed_condition(node, found[0])
            left = [forgotten(value, self.regions.tip) for value in found[1:]]
            joint = [self.joined(node, one, other) for one, other in zip(state, left, strict=True)]
            is_settled = number >= passes and self.regions.changes == changes and all(map(same, state, joint))
            state = joint
            if is_settled:
                break
        else:
            raise DoubtError(f"what a loop carries does not settle{source_line(node)}")
        for output, value in zip(node.outputs(), state, strict=True):
            self.known[output.debugName()] = recalled(value, self.regions)
        return True


STRUCTURES = {
    "prim::Constant",
    "prim::GetAttr",
    "prim::TupleConstruct",
    "prim::ListConstruct",
    "prim::DictConstruct",
    "prim::Uninitialized",
    "prim::TupleUnpack",
    "prim::ListUnpack",
}


def nodes_of(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)


def writes(node: Any) -> bool:
    return bool(node.kind().endswith("_"))


def located(mixed: Mixed, node: Any, kind: str) -> Mixed:
    return Mixed(mixed.reason + source_line(node), mixed.certain)


def unpacked(value: Value, count: int, regions: Regions) -> Value:
    if isinstance(value, Tupled):
        return value if count != 1 else value.values[0]
    if isinstance(value, Mixed):
        return Tupled((value,) * count) if count != 1 else value
    if isinstance(value, Items):
        parts = value.values if value.values is not None else [value.each] * count
        if len(parts) == count and None not in parts:
            found = tuple(recalled(part, regions) for part in parts if part is not None)
            return Tupled(found) if count != 1 else found[0]
    raise DoubtError("how many values it unpacks is not known")


def dict_of(values: Sequence[Value], regions: Regions) -> Entries:
    entries: dict[Any, Value] = {}
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, Known):
            raise DoubtError("the keys of a dict are not constant")
        entries[key.value] = value
    return Entries(entries, regions.tip)


def arguments_of(parameters: Sequence[Any], inputs: Sequence[TensorSpec], values: list[Value]) -> list[Value]:
    """What `forward` is called with: a dict or a list takes all inputs, others one each; the rest have defaults."""
    kinds = [str(parameter.type) for parameter in parameters]
    if kinds[:1] == ["Dict[str, Tensor]"] and all(parameter.has_default_value() for parameter in parameters[1:]):
        entries = {spec.name: value for spec, value in zip(inputs, values, strict=True) if value != NONE}
        return [Entries(entries, writable=False), *defaults(parameters[1:])]
    if kinds[:1] == ["List[Tensor]"] and all(parameter.has_default_value() for parameter in parameters[1:]):
        return [Items([value for value in values if value != NONE], writable=False), *defaults(parameters[1:])]
    if len(values) > len(parameters):
        raise DoubtError(f"it takes {len(parameters)} inputs, and {len(values)} are given")
    for value, kind in zip(values, kinds, strict=False):
        if isinstance(value, Texts) != (kind == "List[str]") or kind not in ("Tensor", "Optional[Tensor]", "List[str]"):
            raise DoubtError(f"it takes a {kind}")
    return [*values, *defaults(parameters[len(values) :])]


def defaults(parameters: Sequence[Any]) -> list[Value]:
    for parameter in parameters:
        if not parameter.has_default_value():
            raise DoubtError(f"its {parameter.name} is not given")
    return [constant(parameter.default_value) for parameter in parameters]
