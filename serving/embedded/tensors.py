"""TensorProto <-> numpy. Field meanings: tensorflow/core/framework/tensor.proto."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.dtypes import as_dtype

from serving.embedded.errors import invalid_argument

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
}
_DTYPES: dict[int, np.dtype[Any]] = {number: np.dtype(as_dtype(number).as_numpy_dtype) for number in _VALUES_FIELD}
_HALVES = frozenset({types_pb2.DT_HALF, types_pb2.DT_BFLOAT16})
#: MultiplyWithoutOverflow in tensor_shape.cc: a shape's product must fit an int64.
_MAX_ELEMENTS = 1 << 62
#: Elements that a last value may be repeated to: a few bytes must not ask for gigabytes.
_MAX_FILLED = 1 << 26


def decode(alias: str, proto: tensor_pb2.TensorProto) -> Array:
    """An array over ``tensor_content`` without a copy, or of the typed values, the last of which fills the rest.

    Raises ServingError (INVALID_ARGUMENT) where dtype, shape and values do not fit one another.
    """
    dtype = _DTYPES.get(proto.dtype)
    if dtype is None:
        raise invalid_argument(f"tensor parsing error: {alias}")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape) or len(shape) > 254:
        raise invalid_argument(f"tensor parsing error: {alias}")
    count = prod(shape)
    if count > _MAX_ELEMENTS:
        raise invalid_argument(f"tensor parsing error: {alias}")
    if proto.tensor_content and proto.dtype != types_pb2.DT_STRING:
        if len(proto.tensor_content) != count * dtype.itemsize:
            raise invalid_argument(f"tensor parsing error: {alias}")
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    return _filled(alias, proto, dtype, count).reshape(shape)


def encode(array: Array, number: int, into: tensor_pb2.TensorProto, *, as_content: bool) -> None:
    """Fills ``into``: typed values as the real server's default is, or ``tensor_content`` where asked for."""
    into.dtype = number
    for size in array.shape:
        into.tensor_shape.dim.add(size=size)
    flat = array.reshape(-1)
    if number == types_pb2.DT_STRING:
        into.string_val.extend(item if isinstance(item, bytes) else item.encode() for item in flat.tolist())
    elif as_content:
        into.tensor_content = flat.tobytes()
    elif number in _HALVES:
        into.half_val.extend(flat.view(np.uint16).tolist())
    else:
        getattr(into, _VALUES_FIELD[number]).extend(flat.tolist())


def _filled(alias: str, proto: tensor_pb2.TensorProto, dtype: np.dtype[Any], count: int) -> Array:
    values = getattr(proto, _VALUES_FIELD[proto.dtype])
    if len(values) > count:
        raise invalid_argument(f"tensor parsing error: {alias}")
    if not values:
        # Tensor::FromProto makes zeros (empty strings) of no values; a claimed shape must not take memory for it.
        if count:
            raise invalid_argument(f"tensor parsing error: {alias}")
        return np.empty(0, dtype)
    if count > len(values) and count > _MAX_FILLED:
        raise invalid_argument(f"tensor parsing error: {alias}")
    if proto.dtype in _HALVES:
        array = np.array(values, np.uint16).view(dtype)
    elif proto.dtype == types_pb2.DT_STRING:
        array = np.empty(len(values), np.object_)
        array[:] = values
    else:
        array = np.array(values).astype(dtype)
    return np.concatenate([array, np.full(count - len(array), array[-1], dtype)]) if len(array) < count else array
