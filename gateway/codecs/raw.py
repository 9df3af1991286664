"""Tensors as raw bytes: little-endian, row-major, BOOL one byte, BYTES elements behind a uint32 length.

The form is the same in the Open Inference Protocol's binary tensor extension, in its gRPC ``raw_*_contents``, and,
BYTES apart, in TensorFlow's ``tensor_content``.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any

import numpy as np

from gateway.codecs import limits
from gateway.errors import InvalidArgument
from gateway.types import DATATYPES, Array, Tensor

_LENGTH = struct.Struct("<I")
_LITTLE_ENDIAN: dict[str, np.dtype[Any]] = {name: dtype.newbyteorder("<") for name, dtype in DATATYPES.items()}

Buffer = bytes | bytearray | memoryview


def decode(
    name: str, datatype: str, shape: tuple[int, ...], buffer: Buffer, budget: limits.Budget | None = None
) -> Tensor:
    """Lays an array over ``buffer`` without a copy (BYTES elements are copied). ``budget`` is that of a request.

    Raises InvalidArgument where datatype, shape and the number of bytes do not fit one another.
    """
    dtype = _LITTLE_ENDIAN.get(datatype)
    if dtype is None:
        raise InvalidArgument(f"tensor {name!r}: unknown datatype {datatype!r}; known are {', '.join(DATATYPES)}")
    count = prod(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, _decode_strings(name, count, buffer, budget).reshape(shape))
    if len(buffer) != count * dtype.itemsize:
        wanted = count * dtype.itemsize
        raise InvalidArgument(
            f"tensor {name!r}: shape {list(shape)} of {datatype} takes {wanted} bytes, got {len(buffer)}"
        )
    if datatype == "BOOL" and count and np.frombuffer(buffer, np.uint8).max() > 1:
        raise InvalidArgument(f"tensor {name!r}: a BOOL is a byte of 0 or 1")
    return Tensor(name, datatype, np.frombuffer(buffer, dtype, count).reshape(shape))


def encode(tensor: Tensor) -> bytes | memoryview:
    """The tensor's bytes, without a copy where the array lies in memory as the wire wants it."""
    if tensor.datatype == "BYTES":
        pieces: list[bytes] = []
        for item in tensor.data.ravel():
            pieces.append(_LENGTH.pack(len(item)))
            pieces.append(item)
        return b"".join(pieces)
    array: Array = np.ascontiguousarray(tensor.data, _LITTLE_ENDIAN[tensor.datatype])
    # A zero-sized array has no buffer that a memoryview could be cast to.
    return array.reshape(-1).data.cast("B") if array.size else b""


def _decode_strings(name: str, count: int, buffer: Buffer, budget: limits.Budget | None) -> Array:
    # Each element takes at least its length: checked first, so that a claimed shape cannot allocate memory.
    if count * _LENGTH.size > len(buffer):
        raise InvalidArgument(f"tensor {name!r}: {len(buffer)} bytes are too few for {count} BYTES elements")
    if budget is not None:
        budget.strings(name, count)
    # A list first, and names of its own for what the loop calls: half of the time, and 32,768 strings are milliseconds.
    found: list[bytes] = []
    add, length_at, size, offset = found.append, _LENGTH.unpack_from, len(buffer), 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > size:
            raise InvalidArgument(f"tensor {name!r}: the data ends at element {index} of {count}")
        offset = start + length_at(buffer, offset)[0]
        if offset > size:
            raise InvalidArgument(f"tensor {name!r}: element {index} is longer than the data that is left")
        add(bytes(buffer[start:offset]))
    if offset != size:
        raise InvalidArgument(f"tensor {name!r}: {size - offset} bytes are left after {count} elements")
    items = np.empty(count, np.object_)
    items[:] = found
    return items
