"""JSON values to arrays, with TensorFlow Serving's checks, in its order, in its words (json_tensor.cc).

A value that is right is read level by level, in C; only what turns out wrong is walked through element by element, to
find the first fault as the real server finds it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from itertools import chain, islice
from typing import Any

import grpc
import numpy as np
import rapidjson
from tensorflow.core.framework import types_pb2

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.rest.parsing import as_bytes
from serving.embedded.tensors import Array

SHOWN_BYTES = 256
#: Of a list, or array: numpy's limit.
_MAX_RANK = 64
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_INT32, _INT64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
_FLOATS = {types_pb2.DT_FLOAT: np.float32, types_pb2.DT_DOUBLE: np.float64}
#: The literal's range, then the type that it is wrapped into.
_INTEGERS: dict[int, tuple[tuple[int, int], Any]] = {
    types_pb2.DT_INT32: (_INT32, np.int32),
    types_pb2.DT_INT16: (_INT32, np.int16),
    types_pb2.DT_INT8: (_INT32, np.int8),
    types_pb2.DT_UINT8: (_INT32, np.uint8),
    types_pb2.DT_INT64: (_INT64, np.int64),
    types_pb2.DT_UINT32: ((0, (1 << 32) - 1), np.uint32),
    types_pb2.DT_UINT64: ((0, (1 << 64) - 1), np.uint64),
}


class _Unfit(Exception):
    """The quick way does not see what it expects."""


def tensor(value: Any, dtype: int) -> Array:
    """An array of the value's own shape. Raises ServingError (INVALID_ARGUMENT, UNIMPLEMENTED)."""
    try:
        return quick(value, dtype)
    except _Unfit:
        check(value, dtype)
        raise invalid_argument("the value cannot be read as a tensor") from None


def rows(values: list[Any], dtype: int, fault: Callable[[int, ServingError], ServingError]) -> Array:
    """(n, ...): one element after the other, all of one shape. ``fault`` words the error of the element at an index."""
    try:
        return quick(values, dtype)
    except _Unfit:
        pass
    first: tuple[int, tuple[int, ...]] | None = None
    for index, value in enumerate(values):
        try:
            found = check(value, dtype)
            if first is None:
                first = found
            elif found[0] != first[0]:
                raise invalid_argument(f"Expecting tensor size: {first[0]} but got: {found[0]}")
            elif found[1] != first[1]:
                raise invalid_argument(f"Expecting shape {_braced(first[1])} but got: {_braced(found[1])}")
        except ServingError as error:
            raise fault(index, error) from error
    raise invalid_argument("the elements cannot be read as a tensor")


def quick(value: Any, dtype: int) -> Array:
    """Raises _Unfit at whatever is not plainly right."""
    shape = shape_of(value)
    flat = [value]
    for size in shape:
        if set(map(type, flat)) != {list} or set(map(len, flat)) != {size}:
            raise _Unfit
        flat = list(chain.from_iterable(flat))
    return _leaves(flat, dtype).reshape(shape)


def _leaves(flat: list[Any], dtype: int) -> Array:
    kinds = set(map(type, flat))
    if dtype in _FLOATS and kinds <= {int, float}:
        try:
            with np.errstate(over="ignore"):
                return np.array(flat, np.float64).astype(_FLOATS[dtype])
        except OverflowError as error:
            raise _Unfit from error
    if dtype in _INTEGERS and kinds <= {int}:
        (low, high), target = _INTEGERS[dtype]
        if flat and not low <= min(flat) <= max(flat) <= high:
            raise _Unfit
        return np.array(flat, np.uint64 if dtype == types_pb2.DT_UINT64 else np.int64).astype(target)
    if dtype == types_pb2.DT_BOOL and kinds <= {bool}:
        return np.array(flat, np.bool_)
    if dtype == types_pb2.DT_STRING and all(type(item) is str or is_base64(item) for item in flat):
        array = np.empty(len(flat), np.object_)
        array[:] = [string(item) for item in flat]
        return array
    raise _Unfit


def check(value: Any, dtype: int) -> tuple[int, tuple[int, ...]]:
    """Number of values, and shape. Raises the first fault that there is."""
    shape = shape_of(value)
    return _walk(value, 0, shape, dtype), shape


def shape_of(value: Any) -> tuple[int, ...]:
    """As the first element of each list says; `()` for what is no list."""
    shape = []
    while isinstance(value, list):
        if len(shape) == _MAX_RANK:
            raise invalid_argument(
                f"the list is nested deeper than {_MAX_RANK} levels, the most that a tensor has here"
            )
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def string(value: Any) -> bytes:
    """Of a string, or of a base64 object. Raises ServingError (INVALID_ARGUMENT)."""
    if isinstance(value, str):
        return as_bytes(value)
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    encoded = b"".join(as_bytes(value["b64"]).split())
    bare = encoded.rstrip(b"=")
    if not _BASE64.fullmatch(encoded) or len(bare) % 4 == 1:
        raise invalid_argument("Unable to base64 decode")
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4))
    except binascii.Error as error:
        raise invalid_argument("Unable to base64 decode") from error


def is_base64(value: Any) -> bool:
    """An object with the one key ``b64``, and a string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def shown(value: Any) -> str:
    """A value in an error's text: pretty-printed, and cut."""
    text: str = rapidjson.dumps(_start(value, [SHOWN_BYTES]), indent=4, ensure_ascii=False)
    cut = text.encode("utf-8", "replace")[:SHOWN_BYTES]
    return cut.decode("utf-8", "ignore")


def _start(value: Any, left: list[int]) -> Any:
    """As much of it as may be seen: a value takes a byte at least, and a level of brackets its indentation."""
    left[0] -= 1
    if isinstance(value, str):
        return value[: max(left[0], 0) + 1]
    if left[0] > 0 and isinstance(value, list):
        return [_start(item, left) for item in value[: left[0]] if left[0] > 0]
    if left[0] > 0 and isinstance(value, dict):
        return {name[:SHOWN_BYTES]: _start(item, left) for name, item in islice(value.items(), left[0]) if left[0] > 0}
    return value if not isinstance(value, list | dict) else type(value)()


def type_name(value: Any) -> str:
    """RapidJSON's name of its type."""
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    kinds = {dict: "Object", list: "Array", str: "String"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "Number")


def dtype_name(dtype: int) -> str:
    """``float``, ``int32``, ``half``: DataTypeString."""
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


def _walk(value: Any, level: int, shape: tuple[int, ...], dtype: int) -> int:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid_argument(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        _check_leaf(value, dtype)
        return 1
    if level >= len(shape):
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    return sum(_walk(item, level + 1, shape, dtype) for item in value)


def _check_leaf(value: Any, dtype: int) -> None:
    if dtype == types_pb2.DT_STRING and isinstance(value, dict):
        string(value)
        return
    if isinstance(value, dict):
        raise _type_error(value, dtype)
    if dtype not in _FLOATS and dtype not in _INTEGERS and dtype not in (types_pb2.DT_BOOL, types_pb2.DT_STRING):
        text = f"Conversion of JSON Value: {shown(value)} to type: {dtype_name(dtype)}"
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, text)
    try:
        _leaves([value], dtype)
    except _Unfit:
        if isinstance(value, int) and abs(value) > 10**308:
            text = "JSON Parse error: Number too big to be stored in double."
            raise invalid_argument(text) from None
        raise _type_error(value, dtype) from None


def _type_error(value: Any, dtype: int) -> ServingError:
    return invalid_argument(
        f"JSON Value: {shown(value)} Type: {type_name(value)} is not of expected type: {dtype_name(dtype)}"
    )


def _braced(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
