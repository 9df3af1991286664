"""Values that a client wrote without dimensions of size 1: one example without its batch, a column as a flat list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.codecs import json
from gateway.errors import InvalidArgument
from gateway.types import Tensor, TensorSpec

_MAX_RANK = 32


@dataclass(frozen=True, slots=True)
class Added:
    """What was added to the inputs' shapes, to ``rank``: the batch, and how many dimensions of size 1 at the end."""

    batch: bool = False
    trailing: int = 0
    rank: int = 0


NOTHING = Added()


def of_json(spec: TensorSpec, value: Any, *, may_hold_booleans: bool) -> Tensor:
    """The tensor of a nested list or a single value, with the shape that it is nested in. Raises InvalidArgument."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        if len(shape) > _MAX_RANK:
            raise InvalidArgument(f"input {spec.name!r}: more than {_MAX_RANK} dimensions")
        if not inner:
            break
        inner = inner[0]
    if isinstance(inner, dict):
        raise InvalidArgument(f"input {spec.name!r} takes values of {spec.datatype}, found an object")
    if shape:
        return json.decode(spec.name, spec.datatype, tuple(shape), value, may_hold_booleans=may_hold_booleans)
    single = json.decode(spec.name, spec.datatype, (1,), [value], may_hold_booleans=may_hold_booleans)
    return Tensor(spec.name, spec.datatype, single.data.reshape(()))


def fit(tensor: Tensor, spec: TensorSpec, *, has_batch: bool = False) -> tuple[Tensor, Added]:
    """The tensor in the declared rank, where it lacks only dimensions of size 1 at its ends.

    Dimensions that are declared as 1 are added at the end; failing that, the batch is added in front, unless
    ``has_batch`` says that the first dimension is the batch. ``[]`` is the empty batch. What cannot be fitted is
    returned as it is: the check against the signature tells the client.

    ``[1, 2, 3]`` is three rows of an input declared (-1, 1), and one row without its batch of one declared (-1, 3).
    """
    shape, wanted = tensor.shape, spec.shape
    missing = len(wanted) - len(shape)
    if missing <= 0:
        return tensor, NOTHING
    if shape == (0,) and wanted[0] == -1:
        return _reshaped(tensor, (0, *(max(size, 0) for size in wanted[1:]))), NOTHING
    for added in (Added(False, missing, len(wanted)), Added(True, missing - 1, len(wanted))):
        if added.batch and has_batch:
            continue
        whole = ((1,) if added.batch else ()) + shape + (1,) * added.trailing
        declared_as_one = all(size == 1 for size in wanted[len(wanted) - added.trailing :])
        if declared_as_one and all(want in (-1, size) for size, want in zip(whole, wanted, strict=True)):
            return _reshaped(tensor, whole), added
    return tensor, NOTHING


def agreed(every: Sequence[Added]) -> Added:
    """What was added to all of the inputs."""
    if not every:
        return NOTHING
    alike = len({(added.trailing, added.rank) for added in every}) == 1
    return Added(all(added.batch for added in every), every[0].trailing if alike else 0, every[0].rank)


def undo(tensor: Tensor, added: Added) -> Tensor:
    """An output without the dimensions that were added to the inputs, where it has them with size 1.

    Those at the end only if it has the inputs' rank: others are not computed element by element.
    """
    shape = tensor.shape
    trailing = added.trailing if len(shape) == added.rank else 0
    if added.batch and shape[:1] == (1,):
        shape = shape[1:]
    least = 0 if added.batch else 1
    for _ in range(trailing):
        if len(shape) > least and shape[-1] == 1:
            shape = shape[:-1]
    return tensor if shape == tensor.shape else _reshaped(tensor, shape)


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, tensor.data.reshape(shape))
