"""Triton's classification extension: an output's best classes in place of its values.

Source: Triton ``docs/protocol/extension_classification.md``. A class is the text ``value:index``; labels are not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from gateway.errors import InvalidArgument
from gateway.types import Array, Parameter, Tensor

#: Each class is a Python string of its own, and takes about a microsecond.
_MAX_TEXTS = 1 << 15


def count(output: str, value: Parameter) -> int:
    """How many classes the parameter ``classification`` of an output asks for. Raises InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(f"parameter 'classification' of output {output!r} must be a whole number above 0")
    return value


def best(outputs: tuple[Tensor, ...], classes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """The outputs; in place of each that ``classes`` names, its best classes. Raises InvalidArgument."""
    if not classes:
        return outputs
    return tuple(_best(tensor, classes[tensor.name]) if tensor.name in classes else tensor for tensor in outputs)


def _best(tensor: Tensor, wanted: int) -> Tensor:
    """BYTES [rows, k], highest first, of equals the lower index; [k] for a tensor of one dimension, which is one row.

    ``k`` is at most the number of classes: all dimensions after the first, flattened.
    """
    values = _values(tensor)
    rows = values.shape[0] if values.ndim > 1 else 1
    flat = values.reshape(rows, prod(values.shape[1:]) if values.ndim > 1 else values.size)
    width = flat.shape[1]
    k = min(wanted, width)
    if rows * max(k, 1) > _MAX_TEXTS:
        raise InvalidArgument(f"output {tensor.name!r}: {rows} x {k} classes are more than the {_MAX_TEXTS} allowed")
    # A stable sort of the mirrored row, mirrored again, leaves equals in the order of their indices.
    order = width - 1 - np.argsort(flat[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :k]
    texts = np.empty((rows, k), np.object_)
    for row, indices in enumerate(order):
        texts[row] = [_text(flat[row, index], index) for index in indices]
    return Tensor(tensor.name, "BYTES", texts if values.ndim > 1 else texts.reshape(k))


def _values(tensor: Tensor) -> Array:
    if tensor.datatype in ("BYTES", "BOOL"):
        raise InvalidArgument(f"output {tensor.name!r} is {tensor.datatype}: only numbers can be classified")
    if tensor.datatype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    return tensor.data


def _text(value: np.generic, index: int) -> bytes:
    """Six decimals, as C++'s std::to_string writes them; an integer has none."""
    number = f"{value:f}" if value.dtype.kind == "f" else str(value)
    return f"{number}:{index}".encode()
