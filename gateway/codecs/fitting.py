"""Shapes that a client wrote with other dimensions of size 1 than the model declares.

Servers behind this gateway hold a tensor to its declared rank. Clients write one example without its batch, or a column
as a flat list; TensorFlow's graphs broadcast, so that its documentation's own call sends shape [3] to an input that is
declared (-1, 1). Inputs are brought into their declared ranks here, and what was added is undone in the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.codecs import json, limits
from gateway.errors import InvalidArgument
from gateway.types import Signature, Tensor, TensorSpec

_MAX_RANK = 32


@dataclass(frozen=True, slots=True)
class Rules:
    """What a dialect's clients may leave out or have too much. All may leave out dimensions at the end, declared as 1.

    ``example``: one example without its batch. ``scalar``: all dimensions of a batch of one, free ones too.
    ``surplus``: dimensions of size 1 at the end may be too many.
    """

    example: bool = False
    scalar: bool = False
    surplus: bool = False


#: ``[1, 2, 3]`` to an input declared (-1, 3) is one example: TorchServe's own handlers take one at a time.
TORCHSERVE = Rules(example=True)
#: ``instances`` are rows: four of them are never one row of four.
TORCHSERVE_ROWS = Rules()
#: As TensorFlow's graphs broadcast: nobody's first dimension is guessed, except a single value's.
TFSERVING = Rules(scalar=True, surplus=True)


@dataclass(frozen=True, slots=True)
class Added:
    """What was added to an input's shape, to ``rank``: the batch, and dimensions of size 1 at the end.

    ``trailing`` is negative where they were taken away.
    """

    batch: bool = False
    trailing: int = 0
    rank: int = 0


NOTHING = Added()


@dataclass(frozen=True, slots=True)
class Fitted:
    """Inputs in their declared ranks, and what was added to all of them."""

    inputs: tuple[Tensor, ...]
    added: Added

    def restore(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs as a model that was given the client's own shapes would have made them."""
        return tuple(undo(tensor, self.added) for tensor in outputs) if self.added != NOTHING else outputs


def main_input(specs: Sequence[TensorSpec]) -> TensorSpec | None:
    """The input that a value without a name is for: the only one, or the only one that must be given."""
    if len(specs) == 1:
        return specs[0]
    required = [spec for spec in specs if not spec.optional]
    return required[0] if len(required) == 1 else None


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
        limits.check_empty(spec.name, tuple(shape))
        return json.decode(
            spec.name,
            spec.datatype,
            tuple(shape),
            value,
            may_hold_booleans=may_hold_booleans,
            budget=limits.Budget(),
        )
    single = json.decode(spec.name, spec.datatype, (1,), [value], may_hold_booleans=may_hold_booleans)
    return Tensor(spec.name, spec.datatype, single.data.reshape(()))


def fit_all(inputs: tuple[Tensor, ...], signature: Signature, rules: Rules) -> Fitted:
    """Every input by `fit`; one that the signature does not know is left to the check against it."""
    specs = {spec.name: spec for spec in signature.inputs}
    fits = [fit(tensor, specs[tensor.name], rules) if tensor.name in specs else (tensor, NOTHING) for tensor in inputs]
    return Fitted(tuple(tensor for tensor, _ in fits), agreed([added for _, added in fits]))


def fit(tensor: Tensor, spec: TensorSpec, rules: Rules) -> tuple[Tensor, Added]:
    """The tensor in the declared rank, where it differs by dimensions of size 1 at its ends only.

    Dimensions are added at the end; failing that, the batch is added in front, where the rules let it be left out.
    ``[]`` is the empty batch. What cannot be fitted is returned as it is: the check against the signature tells the
    client.

    >>> import numpy as np
    >>> flat = Tensor("x", "FP32", np.ones(3, np.float32))
    >>> [fit(flat, TensorSpec("x", "FP32", shape), TORCHSERVE)[0].shape for shape in [(-1, 1), (-1, 3)]]
    [(3, 1), (1, 3)]
    """
    shape, wanted = tensor.shape, spec.shape
    missing = len(wanted) - len(shape)
    if missing == 0 or spec.unknown_rank:
        return tensor, NOTHING
    at_the_end = Added(False, missing, len(wanted))
    if missing < 0:
        fits = rules.surplus and _matches(shape[: len(wanted)], wanted) and set(shape[len(wanted) :]) == {1}
        return (_reshaped(tensor, shape[: len(wanted)]), at_the_end) if fits else (tensor, NOTHING)
    if shape == (0,) and wanted[0] == -1:
        return _reshaped(tensor, (0, *(max(size, 0) for size in wanted[1:]))), at_the_end
    ones = {1, -1} if rules.scalar and not shape else {1}
    for added in (at_the_end, Added(True, missing - 1, len(wanted))):
        if added.batch and not rules.example:
            continue
        whole = ((1,) if added.batch else ()) + shape + (1,) * added.trailing
        if set(wanted[len(wanted) - added.trailing :]) <= ones and _matches(whole, wanted):
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
    for _ in range(trailing):
        if shape[-1:] == (1,):
            shape = shape[:-1]
    shape += (1,) * -trailing
    return tensor if shape == tensor.shape else _reshaped(tensor, shape)


def _matches(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, tensor.data.reshape(shape))
