"""Whether a TorchScript graph writes to its own module, so that one call changes the answers to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

HELD = "prim::GetAttr"
ITSELF = "itself"
ATTRIBUTE = "its attribute "
CONSTRUCTS = ("prim::ListConstruct", "prim::TupleConstruct", "prim::DictConstruct")
#: In training mode these write the running statistics that they are given, of which their schemas say nothing.
NORMS = {"aten::batch_norm": (3, 5), "aten::instance_norm": (3, 5), "aten::_batch_norm_impl_index": (3, 5)}


@dataclass(frozen=True, slots=True)
class Held:
    """What a value of the graph has of the module. `is_inside`: the value is a local container that holds the part."""

    part: str
    is_inside: bool = False


Known = dict[str, Held]


def written(module: nn.Module) -> str | None:
    """What the graph of `forward` writes of its module, in words; None where it only reads.

    It looks at the frozen graph: what only training does is gone from that. A tensor, list or dict counts as the
    module's own if it comes from an attribute or is a constant of the graph, directly, as a view or out of a container.
    """
    graph = frozen(module)
    return next(writes(graph, {next(graph.inputs()).debugName(): Held(ITSELF)}), None)


def frozen(module: Any) -> Any:
    try:
        graph = torch._C._freeze_module(module._c)._get_method("forward").graph
    except RuntimeError:  # freezing takes no module of some rarer kinds
        graph = module.graph.copy()
        torch._C._jit_pass_inline(graph)
    return graph


def writes(block: Any, held: Known) -> Iterator[str]:
    """`held` maps the name of a value that may be, or hold, a part of the module to that part's name."""
    for node in block.nodes():
        kind = node.kind()
        if kind == "prim::SetAttr":
            yield from set_attribute(node, held)
            continue
        if kind == "prim::Constant":
            if node.hasAttribute("value") and node.kindOf("value") in ("t", "ival"):
                held[node.output().debugName()] = Held(constant(node.output().debugName()))
            continue
        if kind == HELD:
            if owner := held.get(node.input().debugName()):  # otherwise of an object that was made in this call
                held[node.output().debugName()] = Held(attribute(node, owner))
            continue
        yield from written_arguments(node, held)
        hand_on(node, held)
        for inner in inner_blocks(node, held):
            yield from writes(inner, held)
            for outer, value in zip(node.outputs(), returned(inner, node), strict=False):
                if value.debugName() in held:
                    held.setdefault(outer.debugName(), held[value.debugName()])


def set_attribute(node: Any, held: Known) -> Iterator[str]:
    owner, value = (one.debugName() for one in node.inputs())
    known = held.get(owner)
    if known is not None and not known.is_inside:
        yield attribute(node, known)
    elif value in held:
        held[owner] = Held(held[value].part, is_inside=True)


def attribute(node: Any, owner: Held) -> str:
    if owner.is_inside:
        return owner.part
    path = "" if owner.part == ITSELF else f"{owner.part.removeprefix(ATTRIBUTE)}."
    return f"{ATTRIBUTE}{path}{node.s('name')}"


def constant(name: str) -> str:
    """Freezing names a constant after the attribute that it was."""
    return f"{ATTRIBUTE}{name.removeprefix('self.')}" if name.startswith("self.") else "a tensor that its graph keeps"


def written_arguments(node: Any, held: Known) -> Iterator[str]:
    values = list(node.inputs())
    for place in write_places(node, values):
        found = held.get(values[place].debugName())
        if found is not None and not found.is_inside:
            yield f"{found.part} ({node.kind()})"


def write_places(node: Any, values: list[Any]) -> Iterator[int]:
    if node.kind() in NORMS:
        statistics, training = NORMS[node.kind()]
        if values[training].toIValue() is not False and str(values[statistics].type()) != "NoneType":
            yield statistics
        return
    schema = schema_of(node)
    for place, argument in enumerate(schema.arguments if schema else ()):
        if argument.alias_info is not None and argument.alias_info.is_write and place < len(values):
            yield place


def hand_on(node: Any, held: Known) -> None:
    """Views and elements of a part of the module are parts of it too, and local containers hold what is put in."""
    values = list(node.inputs())
    sources = [(value, held[value.debugName()]) for value in values if value.debugName() in held]
    if not sources:
        return
    schema = schema_of(node)
    value, source = sources[0]
    for place, out in enumerate(node.outputs()):
        is_alias = schema is None or (place < len(schema.returns) and schema.returns[place].alias_info is not None)
        if node.kind() in CONSTRUCTS or (
            is_container(out) and is_container(value) and (source.is_inside or not is_alias)
        ):
            held.setdefault(out.debugName(), Held(source.part, is_inside=True))
        elif is_alias:
            held.setdefault(out.debugName(), Held(source.part))
    if schema is not None:  # what is appended to a local list, or set in a local dict
        for place in write_places(node, values):
            if is_container(values[place]):
                held.setdefault(values[place].debugName(), Held(source.part, is_inside=True))


def is_container(value: Any) -> bool:
    return bool(value.type().kind() in ("ListType", "DictType", "TupleType"))


def schema_of(node: Any) -> Any:
    text = node.schema()
    return None if text.startswith("(no schema") else torch._C.parse_schema(text)


def inner_blocks(node: Any, held: Known) -> Iterator[Any]:
    values = list(node.inputs())
    for inner in node.blocks():
        if node.kind() == "prim::Loop":  # count and condition, then what is carried; inside, the turn first
            carried = zip(list(inner.inputs())[1:], values[2:], strict=False)
            held.update({own.debugName(): held[v.debugName()] for own, v in carried if v.debugName() in held})
        yield inner
    if node.hasAttribute("Subgraph"):
        inner = node.g("Subgraph")
        held.update(
            {
                o.debugName(): held[v.debugName()]
                for o, v in zip(inner.inputs(), values, strict=False)
                if v.debugName() in held
            }
        )
        yield inner


def returned(inner: Any, node: Any) -> list[Any]:
    values = list(inner.outputs())
    return values[1:] if node.kind() == "prim::Loop" else values  # a loop's first is its condition
