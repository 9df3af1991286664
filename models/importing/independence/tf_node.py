"""A node of a graph, as the rules see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.importing.independence.tf_sizes import Atom, Size


@dataclass(frozen=True, slots=True)
class Node:
    """`path` names the place of the call that the node is evaluated for: no two calls share one."""

    proto: Any
    definition: Any
    path: str

    @property
    def op(self) -> str:
        return str(self.proto.op)

    @property
    def name(self) -> str:
        return str(self.proto.name)

    def attr(self, name: str) -> Any:
        """As the node says, or else as the operation's definition: exporters leave defaults out."""
        if name in self.proto.attr:
            return self.proto.attr[name]
        for attr in self.definition.attr if self.definition is not None else ():
            if attr.name == name:
                return attr.default_value
        return _nothing()

    def flag(self, name: str) -> bool:
        return bool(self.attr(name).b)

    def integer(self, name: str) -> int:
        return int(self.attr(name).i)

    def text(self, name: str) -> str:
        return str(self.attr(name).s.decode())

    def integers(self, name: str) -> list[int]:
        return [int(value) for value in self.attr(name).list.i]

    def dtype(self, name: str) -> int:
        return int(self.attr(name).type)

    def fresh(self, tag: object = "") -> Size:
        """A size that nothing is known of, but that it is the same for all requests of one inner shape."""
        return Size.of(Atom(f"{self.path}/{self.name}#{tag}"))

    @property
    def output_count(self) -> int:
        return sum(self.count(argument) for argument in self.definition.output_arg)

    def count(self, argument: Any) -> int:
        """How many tensors an argument of the definition stands for."""
        if argument.number_attr:
            return self.integer(argument.number_attr)
        if argument.type_list_attr:
            return len(self.attr(argument.type_list_attr).list.type)
        return 1


def _nothing() -> Any:
    from tensorflow.core.framework import attr_value_pb2  # type: ignore[import-untyped]

    return attr_value_pb2.AttrValue()
