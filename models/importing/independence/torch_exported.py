"""Whether an exported program answers each row by that row alone, by the same table of operations as TorchScript."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from models.importing.independence.finding import Finding
from models.importing.independence.torch_graph import constant, value_of, verdict
from models.importing.independence.torch_scalars import PYTHON
from models.importing.independence.torch_table import run
from models.importing.independence.torch_values import (
    NONE,
    DoubtError,
    Items,
    Mixed,
    Regions,
    RowDim,
    Size,
    Symbol,
    Tensor,
    Tupled,
    Value,
)
from models.spec import TensorSpec

SYMBOLIC: dict[Any, str] = {
    **{function: name for name, function in PYTHON.items() if getattr(operator, name, None) is function},
    operator.floordiv: "floordiv",
    operator.truediv: "truediv",
    torch.sym_int: "Int",
    torch.sym_float: "Float",
    torch.sym_max: "max",
    torch.sym_min: "min",
    torch.sym_not: "__not__",
}
CHECKS = ("aten::_assert_scalar", "aten::_assert_async", "aten::_assert_tensor_metadata", "aten::sym_constrain_range")
"""They raise, or let the call go on: no output follows from them."""


def analyse_exported(program: torch.export.ExportedProgram, inputs: Sequence[TensorSpec]) -> Finding:
    """Of its graph, called with `inputs` in this order.

    Where the graph has operations that the table does not know, it is looked at once more in simpler ones.
    """
    first = found(program, inputs)
    if first.rows != "unknown":
        return first
    try:
        simpler = program.run_decompositions()
    except Exception:  # a dozen kinds, and what was found stands
        return first
    second = found(simpler, inputs)
    return first if second.rows == "unknown" else second


def found(program: torch.export.ExportedProgram, inputs: Sequence[TensorSpec]) -> Finding:
    try:
        return Program(program).analysed(inputs)
    except DoubtError as error:
        return Finding("unknown", str(error))
    except Exception as error:  # whatever a graph holds that nobody thought of: it is not known
        return Finding("unknown", f"the analysis failed: {type(error).__name__}: {error}")


@dataclass
class Program:
    program: torch.export.ExportedProgram
    regions: Regions = field(default_factory=Regions)
    known: dict[torch.fx.Node, Value] = field(default_factory=dict)

    def analysed(self, inputs: Sequence[TensorSpec]) -> Finding:
        for output in self.program.graph_signature.output_specs:
            if output.kind != OutputKind.USER_OUTPUT:
                raise DoubtError(f"it keeps state between calls, or changes its inputs ({output.target})")
        self.take_inputs(inputs)
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.known[node] = self.called(node)
            elif node.op == "output":
                return verdict(self.value(node.args[0]))
            elif node.op != "placeholder":
                raise DoubtError(f"{node.op} {node.target}: of this it is not known whether it keeps rows apart")
        raise DoubtError("it has no output")

    def take_inputs(self, inputs: Sequence[TensorSpec]) -> None:
        waiting = list(enumerate(inputs))
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind == InputKind.USER_INPUT and isinstance(spec.arg, ConstantArgument):
                self.known[node] = constant(spec.arg.value)
            elif spec.kind == InputKind.USER_INPUT:
                if not waiting:
                    raise DoubtError("it takes more inputs than are given")
                self.known[node] = fitting(*waiting.pop(0), node)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                self.known[node] = self.state(str(spec.target))
            else:
                raise DoubtError(f"it takes {spec.target}, of which nothing is known")
        if waiting:
            raise DoubtError(f"it takes no input {waiting[0][1].name}")

    def state(self, name: str) -> Value:
        if name in self.program.state_dict:
            return constant(self.program.state_dict[name])
        return constant(self.program.constants[name])

    def called(self, node: torch.fx.Node) -> Value:
        try:
            return self.operation(node)
        except DoubtError as error:
            raise DoubtError(f"{error}{source_line(node)}") from error

    def operation(self, node: torch.fx.Node) -> Value:
        target: Any = node.target
        if target is operator.getitem:
            return item(self.value(node.args[0]), node.args[1])
        if target in SYMBOLIC:
            name = SYMBOLIC[target]
            values = {str(place): self.value(value) for place, value in enumerate(node.args)}
            return run(f"python::{name}", values, self.regions, writes=False, results=1)
        if not isinstance(target, torch._ops.OpOverload):
            raise DoubtError(f"{target}: of this operation it is not known whether it keeps rows apart")
        schema = target._schema
        if schema.name in CHECKS:
            return NONE
        name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
        arguments: dict[str, Value] = {}
        for place, argument in enumerate(schema.arguments):
            if place < len(node.args):
                arguments[argument.name] = self.value(node.args[place])
            elif argument.name in node.kwargs:
                arguments[argument.name] = self.value(node.kwargs[argument.name])
            else:
                arguments[argument.name] = constant(argument.default_value)
        result = run(name, arguments, self.regions, writes=schema.is_mutable, results=len(schema.returns))
        return Mixed(result.reason + source_line(node), result.certain) if is_new(result, name) else result  # type: ignore[union-attr]

    def value(self, argument: Any) -> Value:
        if isinstance(argument, torch.fx.Node):
            return self.known[argument]
        if isinstance(argument, (list, tuple)):
            return Items([self.value(part) for part in argument])
        if isinstance(argument, dict):
            return Items([self.value(part) for part in argument.values()])
        return constant(argument)


def is_new(value: Value, name: str) -> bool:
    return isinstance(value, Mixed) and value.reason.startswith(name)


def item(holder: Value, place: Any) -> Value:
    if isinstance(holder, Mixed):
        return holder
    values = holder.values if isinstance(holder, (Items, Tupled)) else None
    if values is None or not isinstance(place, int):
        raise DoubtError("which item it takes is not known")
    return values[place]


def fitting(place: int, spec: TensorSpec, node: torch.fx.Node) -> Value:
    value = value_of(place, spec)
    example = node.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(example, torch.Tensor) or example.ndim != value.rank:
        raise DoubtError(f"input {spec.name} is not of the form that the program takes")
    sizes: tuple[Any, ...] = tuple(example.shape)  # integers, or symbols of the program
    if isinstance(sizes[0], int):
        raise DoubtError(f"it was exported for {sizes[0]} rows of {spec.name} alone")
    return unified(value, example)


def unified(value: Tensor, example: torch.Tensor) -> Tensor:
    """With the program's own symbols, which it holds equal where they have one name."""
    dims = [
        dim if isinstance(dim, RowDim) or isinstance(size, int) else Size(1, (Symbol(f"{size}"),))
        for dim, size in zip(value.dims, example.shape, strict=True)
    ]
    return replace(value, dims=tuple(dims))


def source_line(node: torch.fx.Node) -> str:
    """The last line of the model's own code that led to it."""
    lines = [line.strip() for line in str(node.meta.get("stack_trace", "")).splitlines() if line.strip()]
    places = [place for place, line in enumerate(lines) if line.startswith("File ")]
    if not places:
        return ""
    _, path, rest = lines[places[-1]].split('"', 2)
    number = rest.split("line ")[-1].split(",")[0]
    code = lines[places[-1] + 1] if places[-1] + 1 < len(lines) else ""
    return f" ({path.rpartition('/')[2]}:{number}{': ' + code if code else ''})"
