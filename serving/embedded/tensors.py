"""TensorProto <-> numpy, as ``Tensor::FromProto`` and ``AsProtoField`` do it (tensorflow/core/framework/tensor.cc)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.dtypes import as_dtype

from serving.embedded.errors import ServingError, invalid_argument

Array = NDArray[Any]

_VALUES_FIELD = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_BFLOAT16: "half_val",
    types_pb2.DT_COMPLEX64: "scomplex_val",
    types_pb2.DT_COMPLEX128: "dcomplex_val",
}
_DTYPES: dict[int, np.dtype[Any]] = {number: np.dtype(as_dtype(number).as_numpy_dtype) for number in _VALUES_FIELD}
_HALVES = frozenset({types_pb2.DT_HALF, types_pb2.DT_BFLOAT16})
#: Complex numbers travel as pairs of these.
_PARTS = {types_pb2.DT_COMPLEX64: np.float32, types_pb2.DT_COMPLEX128: np.float64}
#: TensorFlow's own is 254, numpy's is this.
_MAX_RANK = 64
_MAX_INT64 = (1 << 63) - 1
#: Elements that a last value may be repeated to; ours: a few bytes must not ask for gigabytes, in sixteen threads.
_MAX_FILLED = 1 << 22
#: Values that are Python's numbers at one time.
_SLICE = 1 << 16


def decode(alias: str, proto: tensor_pb2.TensorProto) -> Array:
    """An array over ``tensor_content`` without a copy, or of the typed values.

    Values beyond the shape are ignored, the last value fills what is missing, and no value at all means zeros or empty
    strings. Raises ServingError (INVALID_ARGUMENT) where dtype, shape and content do not fit one another.
    """
    dtype = _DTYPES.get(proto.dtype)
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if dtype is None or proto.tensor_shape.unknown_rank or len(shape) > _MAX_RANK:
        raise _unparsable(alias)
    count = 1
    for size in shape:
        count *= size
        if size < 0 or count > _MAX_INT64:
            raise _unparsable(alias)
    if not count:
        return _empty(alias, shape, dtype)  # what the values say does not matter then
    content = proto.tensor_content  # a copy at each look
    if not content:
        return _typed(alias, proto, dtype, count).reshape(shape)
    if proto.dtype == types_pb2.DT_STRING:
        return _strings(alias, content, count).reshape(shape)
    if len(content) != count * dtype.itemsize:
        raise _unparsable(alias)
    return np.frombuffer(content, dtype).reshape(shape)


def encode(array: Array, number: int, into: tensor_pb2.TensorProto, *, as_content: bool) -> None:
    """Fills ``into``: typed values as the real server's default is, or ``tensor_content`` where asked for."""
    into.dtype = number
    for size in array.shape:
        into.tensor_shape.dim.add(size=size)
    flat = array.reshape(-1)
    if number == types_pb2.DT_STRING:
        items = [item if isinstance(item, bytes) else item.encode() for item in flat.tolist()]
        if as_content:
            into.tensor_content = b"".join([*map(_varint, map(len, items)), *items])
        else:
            into.string_val.extend(items)
    elif as_content:
        into.tensor_content = flat.tobytes()
    elif number in _HALVES:
        _extend(into.half_val, flat.view(np.uint16))
    else:
        parts = flat.view(_PARTS[number]) if number in _PARTS else flat
        _extend(getattr(into, _VALUES_FIELD[number]), parts)


def _extend(field: Any, values: Array) -> None:
    for start in range(0, len(values), _SLICE):
        field.extend(values[start : start + _SLICE].tolist())


def _empty(alias: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    try:
        return np.empty(shape, dtype)
    except ValueError as error:  # numpy multiplies the dimensions that are not 0
        raise _unparsable(alias) from error


def _typed(alias: str, proto: tensor_pb2.TensorProto, dtype: np.dtype[Any], count: int) -> Array:
    values = getattr(proto, _VALUES_FIELD[proto.dtype])
    if count > max(len(values), _MAX_FILLED):
        raise _unparsable(alias)
    if proto.dtype == types_pb2.DT_STRING:
        array = np.empty(len(values), np.object_)
        array[:] = values
    elif proto.dtype in _HALVES:
        array = np.array(values, np.int32).astype(np.uint16).view(dtype)
    elif proto.dtype in _PARTS:
        whole = len(values) - len(values) % 2
        array = np.array(values[:whole], _PARTS[proto.dtype]).view(dtype)
    else:
        array = np.array(values, _WIRE[_VALUES_FIELD[proto.dtype]]).astype(dtype, copy=False)
    if len(array) >= count:
        return array[:count]
    last = array[-1] if len(array) else (b"" if proto.dtype == types_pb2.DT_STRING else dtype.type(0))
    filled = np.empty(count, dtype)
    filled[: len(array)], filled[len(array) :] = array, last
    return filled


#: What a field's values are before they become the tensor's type; small integers wrap as C's do.
_WIRE = {
    "float_val": np.float32,
    "double_val": np.float64,
    "int_val": np.int32,
    "int64_val": np.int64,
    "uint32_val": np.uint32,
    "uint64_val": np.uint64,
    "bool_val": np.bool_,
}


def _varint(number: int) -> bytes:
    low = bytearray()
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*low, number])


def _strings(alias: str, content: bytes, count: int) -> Array:
    """All lengths as varints, then all bytes (EncodeStringList in tensor_coding.cc)."""
    array = np.empty(min(count, len(content)), np.object_)
    if count > len(content):  # a length takes a byte at least
        raise _unparsable(alias)
    lengths, position = [], 0
    for _ in range(count):
        length = shift = 0
        while True:
            if position >= len(content) or shift > 28:
                raise _unparsable(alias)
            byte = content[position]
            position, length, shift = position + 1, length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise _unparsable(alias)
    for index, length in enumerate(lengths):
        array[index] = content[position : position + length]
        position += length
    return array


def _unparsable(alias: str) -> ServingError:
    return invalid_argument(f"tensor parsing error: {alias}")
