"""One call of an operation, with what is known of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.importing.independence import torch_shapes as shapes
from models.importing.independence.torch_values import (
    NONE,
    SCALARS,
    Counted,
    DoubtError,
    Fixed,
    Items,
    Known,
    MixesError,
    Number,
    Regions,
    Scalar,
    Size,
    Tensor,
    Tupled,
    Value,
    Varies,
    recalled,
    size_of,
)

Operation = Callable[["Call"], Value]


@dataclass(frozen=True, slots=True)
class Call:
    """`operation` is its full name, as in aten::softmax.int; `arguments` are in the order of its schema."""

    operation: str
    arguments: Mapping[str, Value]
    regions: Regions
    read: set[str] = field(default_factory=set)
    """The arguments that the operation has looked at; of others nothing may depend on rows."""

    def value(self, name: str) -> Value:
        self.read.add(name)
        return self.arguments.get(name, NONE)

    def first(self) -> Tensor:
        return self.tensor(next(iter(self.arguments)))

    def tensor(self, name: str) -> Tensor:
        found = self.optional(name)
        if found is None:
            raise DoubtError(f"its {name} is not given")
        return found

    def optional(self, name: str) -> Tensor | None:
        found = as_tensor(self.value(name))
        if isinstance(found, Tensor):
            return found
        if found == NONE:
            return None
        raise DoubtError(f"its {name} is not known to be a tensor")

    def constant(self, name: str) -> Tensor | None:
        """Such as weights. Raises DoubtError where it has rows."""
        found = self.optional(name)
        if found is not None and found.row_axis is not None:
            raise DoubtError(f"its {name} differs from row to row")
        return found

    def tensors(self, name: str) -> list[Tensor]:
        found = []
        for value in self.items(name):
            tensor = as_tensor(value)
            if not isinstance(tensor, Tensor):
                raise DoubtError(f"its {name} holds what is not known to be a tensor")
            found.append(tensor)
        return found

    def items(self, name: str) -> Sequence[Value]:
        found = self.value(name)
        if isinstance(found, Items) and found.values is not None:
            return [recalled(value, self.regions) for value in found.values]
        if isinstance(found, Tupled):
            return found.values
        if isinstance(found, Known) and isinstance(found.value, (list, tuple)):
            return [Known(value) for value in found.value]
        if isinstance(found, SCALARS):  # int[2] takes a single number too
            return [found]
        raise DoubtError(f"how many {name} there are is not known")

    def scalar(self, name: str) -> Scalar:
        """Raises DoubtError where it may differ between the runs."""
        found = self.value(name)
        if isinstance(found, Counted):
            found = found.number
        if isinstance(found, Varies):
            raise DoubtError(found.reason)
        if isinstance(found, Number) and found.size.rows:
            raise DoubtError(f"its {name} follows from the number of rows")
        if not isinstance(found, SCALARS):
            raise DoubtError(f"its {name} is not known to be the same for each batch")
        return found

    def known(self, name: str) -> Any:
        found = self.value(name)
        if isinstance(found, Items) and found.values is not None:
            if all(isinstance(value, Known) for value in found.values):
                return [value.value for value in found.values if isinstance(value, Known)]
            raise DoubtError(f"its {name} is not constant")
        if not isinstance(found, Known):
            raise DoubtError(found.reason if isinstance(found, Varies) else f"its {name} is not constant")
        return found.value

    def size(self, name: str) -> Size:
        return self.as_size(self.value(name))

    def sizes(self, name: str) -> list[Size]:
        return [self.as_size(value) for value in self.items(name)]

    def shape(self, name: str) -> list[Size | None]:
        """Sizes, None for -1."""
        return [None if one.known == -1 else one for one in self.sizes(name)]

    def as_size(self, value: Value) -> Size:
        if isinstance(value, Counted):
            value = value.number
        if not isinstance(value, SCALARS):
            raise DoubtError("a size is computed from values")
        return size_of(value, self.regions)

    def axis(self, tensor: Tensor, name: str = "dim") -> int:
        return shapes.axis_of(self.known(name), tensor.rank)

    def integers(self, name: str) -> list[int]:
        found = self.known(name)
        return [found] if isinstance(found, int) else list(found)

    def per_axis(self, name: str, count: int, default: Sequence[int] = ()) -> list[int]:
        """One integer an axis, where the schema lets a single one stand for all."""
        found = self.integers(name) or list(default)
        return found * count if len(found) == 1 else found


def as_tensor(value: Value) -> Value:
    """A number in a tensor's place has rank 0. Raises MixesError where it follows from the number of rows."""
    if not isinstance(value, Counted):
        return value
    scalar = value.number
    if isinstance(scalar, Varies):
        raise MixesError(scalar.reason)
    if isinstance(scalar, Number) and scalar.size.rows:
        raise MixesError("it computes with the number of rows")
    return Tensor((), kind_of(scalar), writable=False)


def kind_of(scalar: Scalar) -> str:
    if isinstance(scalar, Number):
        return "i"
    if isinstance(scalar, Fixed) or not isinstance(scalar, Known):
        return ""
    return {bool: "b", int: "i", float: "f"}.get(type(scalar.value), "")


def fits(result: Tensor, target: Tensor) -> bool:
    """Whether the rows stay where they are. Of free sizes PyTorch itself sees that they are equal."""
    return result.rank == target.rank and all(
        a == b or (isinstance(a, Size) and isinstance(b, Size) and (a.known is None or b.known is None))
        for a, b in zip(result.dims, target.dims, strict=True)
    )


def in_place(operation: Operation) -> Operation:
    """The same, written into the first argument.

    All that shares its memory keeps the form that is known of it: rows stay rows, what has none has none.
    """

    def run(call: Call) -> Value:
        target = call.first()
        if not target.writable or target.memory & call.regions.shared:
            raise DoubtError(
                "it writes in place where the model keeps values between calls, or into memory that may be shared"
            )
        for value in list(call.arguments.values())[1:]:
            for part in value.values or [] if isinstance(value, Items) else [value]:
                if isinstance(part, Tensor) and part is not target and part.memory & target.memory:
                    raise DoubtError("it writes into memory that it reads from")
        try:
            result = operation(call)
        except MixesError as error:
            raise DoubtError(f"it writes in place, and {error}") from None
        if not isinstance(result, Tensor) or not fits(result, target):
            raise DoubtError("it writes in place a result of another form")
        return replace(target, uniform=target.uniform and result.uniform)

    return run
