"""Requests joined along their first dimension, and answers cut apart again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod

import numpy as np

from gateway.types import DATATYPES, Array, InferRequest, InferResponse, Signature, Tensor

_ALIGNMENT = 64
_KEPT_BUFFERS = 8


class Buffers:
    """Memory for joined inputs, used again: fresh pages cost more than the copy into them."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        for index in range(len(self._free) - 1, -1, -1):
            if len(self._free[index]) >= size:
                return self._free.pop(index)
        return bytearray(size)

    def give_back(self, buffer: bytearray) -> None:
        """Only what nobody reads any more."""
        if len(self._free) == _KEPT_BUFFERS:
            self._free.pop(0)
        self._free.append(buffer)


def can_join(signature: Signature) -> bool:
    """Whether the first dimension of every input and output may be the batch."""
    specs = (*signature.inputs, *signature.outputs)
    return bool(signature.inputs and signature.outputs) and all(
        spec.shape[:1] == (-1,) and spec.datatype in DATATYPES for spec in specs
    )


def group(request: InferRequest, signature: Signature) -> Hashable:
    """Requests of one group can be joined: inputs and inner shapes are the same, and they ask for the same outputs.

    To ask for all outputs in the signature's order is the same as to ask for none. A request that leaves out an input
    is alone in its group: the model's default for it has a first dimension of its own, which is the same however many
    rows are joined, so that what is known of rows says nothing about it.
    """
    if len(request.inputs) != len(signature.inputs):
        return object()
    outputs = request.outputs
    if outputs == tuple(spec.name for spec in signature.outputs):
        outputs = ()
    return (outputs, *(tensor.data.shape[1:] for tensor in request.inputs))


def size_bytes(request: InferRequest) -> int:
    return sum(_array_bytes(tensor.data) for tensor in request.inputs)


def output_bytes(response: InferResponse) -> int:
    return sum(_array_bytes(tensor.data) for tensor in response.outputs)


def join(requests: Sequence[InferRequest], buffer: bytearray) -> InferRequest:
    """One request of all rows, its numbers in ``buffer``, with the latest deadline: each caller holds to its own."""
    first = requests[0]
    deadlines = [request.deadline for request in requests]
    offset = 0
    inputs: list[Tensor] = []
    for index, tensor in enumerate(first.inputs):
        parts = [request.inputs[index].data for request in requests]
        shape = (sum(map(len, parts)), *tensor.data.shape[1:])
        if tensor.data.dtype == object:
            joined = np.concatenate(parts)
        else:
            joined = np.frombuffer(buffer, tensor.data.dtype, prod(shape), offset).reshape(shape)
            np.concatenate(parts, out=joined)
            offset += -(-joined.nbytes // _ALIGNMENT) * _ALIGNMENT
        inputs.append(Tensor(tensor.name, tensor.datatype, joined))
    return InferRequest(
        first.model,
        tuple(inputs),
        first.outputs,
        first.version,
        first.variant,
        deadline=None if None in deadlines else max(deadline for deadline in deadlines if deadline is not None),
        signature_name=first.signature_name,
        callers=len(requests),
    )


def buffer_bytes(requests: Sequence[InferRequest]) -> int:
    """What `join` needs for these."""
    sizes = [sum(request.inputs[index].data.nbytes for request in requests) for index in range(len(requests[0].inputs))]
    return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)


def has_rows(response: InferResponse, rows: int) -> bool:
    """Whether each output has one entry for each row that went in."""
    return all(tensor.data.ndim > 0 and len(tensor.data) == rows for tensor in response.outputs)


def cut(outputs: Sequence[Tensor], start: int, rows: int) -> tuple[Tensor, ...]:
    """The part of each output that belongs to these rows; no copy."""
    return tuple(Tensor(tensor.name, tensor.datatype, tensor.data[start : start + rows]) for tensor in outputs)


def lies_in(response: InferResponse, request: InferRequest) -> bool:
    """Whether an output may be memory of an input, as of a model that hands its input through."""
    return any(np.may_share_memory(out.data, given.data) for out in response.outputs for given in request.inputs)


def _array_bytes(data: Array) -> int:
    return data.nbytes if data.dtype != object else sum(map(len, data.ravel())) + 4 * data.size
