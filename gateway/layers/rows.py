"""Requests joined along their first dimension, and answers cut apart again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from gateway.types import DATATYPES, Array, InferRequest, InferResponse, Signature, Tensor

_ALIGNMENT = 64
_KEPT_BUFFERS = 8

#: How far apart two runs of one row may be, in parts of the largest value: sums in another order, never other rows.
_TOLERANCE = {"FP16": 2e-2, "BF16": 2e-2, "FP32": 1e-3, "FP64": 1e-6}


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
    """Requests of one group can be joined: their inner shapes are the same, and they ask for the same outputs.

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


def cut(response: InferResponse, start: int, rows: int) -> tuple[Tensor, ...]:
    """The part of each output that belongs to these rows; no copy."""
    return tuple(Tensor(tensor.name, tensor.datatype, tensor.data[start : start + rows]) for tensor in response.outputs)


def lies_in(response: InferResponse, request: InferRequest) -> bool:
    """Whether an output may be memory of an input, as of a model that hands its input through."""
    return any(np.may_share_memory(out.data, given.data) for out in response.outputs for given in request.inputs)


def another(request: InferRequest) -> InferRequest:
    """A request of the same form that differs in every value that is not 0, or, where all are 0, in all."""
    return replace(request, inputs=tuple(_another(tensor) for tensor in request.inputs))


def same_inputs(one: InferRequest, other: InferRequest) -> bool:
    return all(
        np.array_equal(a.data.view(_bits(a.data)), b.data.view(_bits(b.data)))
        for a, b in zip(one.inputs, other.inputs, strict=True)
    )


def agree(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two answers to one question are the same, but for what sums in another order make of it."""
    return len(one) == len(other) and all(
        a.name == b.name and a.datatype == b.datatype and a.shape == b.shape and _close(a, b)
        for a, b in zip(one, other, strict=True)
    )


def _close(one: Tensor, other: Tensor) -> bool:
    tolerance = _TOLERANCE.get(one.datatype)
    if tolerance is None:
        return bool(np.array_equal(one.data, other.data))
    a, b = _floats(one), _floats(other)
    finite = a[np.isfinite(a)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True))


def _floats(tensor: Tensor) -> Array:
    if tensor.datatype == "BF16":  # the upper half of a float32's bits
        return (tensor.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return tensor.data.astype(np.float64)


def _another(tensor: Tensor) -> Tensor:
    data = tensor.data
    if data.dtype == object:
        other = np.full(data.shape, b"" if any(data.ravel()) else b"a", object)
    else:
        other = np.zeros_like(data) if data.any() else np.ones_like(data)
    return Tensor(tensor.name, tensor.datatype, other)


def _array_bytes(data: Array) -> int:
    return data.nbytes if data.dtype != object else sum(map(len, data.ravel())) + 4 * data.size


def _bits(data: Array) -> np.dtype[Any]:
    """Bytes of numbers are compared, so that a NaN is the same as itself."""
    return data.dtype if data.dtype == object else np.dtype(f"u{data.dtype.itemsize}")
