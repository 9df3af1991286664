"""TensorFlow Serving's JSON, which is not quite JSON: its parser, its values, its numbers. Texts are its own.

Source: tensorflow_serving/util/json_tensor.cc, over RapidJSON 1.1.0. orjson agrees with RapidJSON wherever it takes a
document at all: integers are exact up to 64 bits and doubles beyond, 1e400 is an error. What orjson refuses (NaN,
Infinity, text after the end) or settles otherwise (of equal keys the first counts) is read by RapidJSON itself.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import orjson
import rapidjson

from gateway.codecs import large, limits, scan
from gateway.errors import DuetError, InvalidArgument, Unimplemented
from gateway.types import DATATYPES, Array, Tensor

#: Datatypes with a JSON form, by the names that TensorFlow Serving's messages give them.
TYPE_NAMES: dict[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP32": "float",
    "FP64": "double",
    "BYTES": "string",
}
_JSON_TYPES: dict[type, str] = {dict: "Object", list: "Array", str: "String", type(None): "Null"}
_WITHOUT_FORM = {"FP16": "half", "BF16": "bfloat16", "UINT16": "uint16"}

#: The Python types that a datatype's values have, by the kind of its numpy type.
_TAKEN: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}

#: RapidJSON's own numbers, which are refused where they are too big, but may be off in their last place ...
_NATIVE = rapidjson.NM_NATIVE | rapidjson.NM_NAN
#: ... and Python's.
_EXACT = rapidjson.NM_NAN
_AFTER_THE_END = "The document root must not be followed by other values."
_MAX_RANK = 32
_MAX_SHOWN = 256


def parse(body: bytes, *, keys: Iterable[str]) -> dict[str, Any]:
    """The object that ``body`` holds; ``keys`` are the members that will be read. Raises InvalidArgument."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body:
        raise InvalidArgument("JSON Parse error: The document is empty")
    scan.check(body)
    if any(body.count(b'"%b"' % key.encode()) > 1 for key in keys):
        members = _parse_exactly(body, first_key_counts=True)
    else:
        try:
            members = large.loads(body)
        except orjson.JSONDecodeError:
            members = _parse_exactly(body)
    if not isinstance(members, dict):
        raise InvalidArgument(f"JSON Value: {shown(members)} Is not object")
    return members


def shown(value: Any) -> str:
    """A value as error texts show it: pretty-printed, and cut where it is long."""
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else f"{'-' * (value < 0)}Infinity"
    try:
        begun, _ = _begun(value, _MAX_SHOWN + 1)
        text = str(rapidjson.dumps(begun, indent=4, number_mode=_EXACT, ensure_ascii=False))
    except RecursionError:
        return "(a value nested too deeply to be shown)"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...TRUNCATED"


def _begun(value: Any, room: int) -> tuple[Any, int]:
    """As much of ``value`` as fills ``room`` characters, and how many are left. A value takes one at least."""
    if isinstance(value, str):
        return value[:room], room - 1 - min(len(value), room)
    if not isinstance(value, list | dict):
        return value, room - 1
    room -= 1
    pairs: list[tuple[str, Any]] = []
    for key, item in value.items() if isinstance(value, dict) else (("", item) for item in value):
        if room <= 0:
            break
        begun, room = _begun(item, room - min(len(key), room))
        pairs.append((key[: _MAX_SHOWN + 1], begun))
    return (dict(pairs) if isinstance(value, dict) else [item for _, item in pairs]), room


def is_base64(value: Any) -> bool:
    """``{"b64": "..."}``, which stands for a string of any bytes wherever a string may stand."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def string(value: Any) -> bytes:
    """The bytes of a string, or of a base64 object, whose padding may be missing. Raises InvalidArgument."""
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        raise InvalidArgument(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text: str = value["b64"]
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise InvalidArgument("Unable to base64 decode") from None


def type_name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return next((name for kind, name in _JSON_TYPES.items() if isinstance(value, kind)), "Number")


def tensor(name: str, datatype: str, value: Any) -> Tensor:
    """A tensor of a value or of lists of values, whose nesting is its shape.

    Integers are made of integer literals in the datatype's range only, floats of any number (beyond float32's range:
    an infinity), booleans of booleans. Raises InvalidArgument, or Unimplemented for a datatype that has no JSON form.
    """
    values, shape = _flattened(value)
    limits.check_empty(name, tuple(shape))
    if datatype == "BYTES":
        limits.Budget().strings(name, len(values))
    if datatype not in DATATYPES:
        given = shown(values[0]) if values else "[]"
        raise Unimplemented(
            f"Conversion of JSON Value: {given} to type: {_kind(datatype)}; the gateway cannot carry input {name!r}"
        )
    return Tensor(name, datatype, _array(values, datatype).reshape(shape))


def encode(tensor: Tensor) -> Any:
    """What orjson writes as the tensor's value: an array, a number, nested lists.

    Floats get the shortest decimals that read back the same, always with a point or an exponent; NaN and infinities are
    written bare. Strings of outputs whose name ends in ``_bytes`` become base64 objects, and so do those that are no
    UTF-8: TensorFlow Serving writes the latter raw, which no client can parse.
    """
    if tensor.datatype not in TYPE_NAMES:
        raise InvalidArgument(f"Failed to write JSON value for tensor type: {_kind(tensor.datatype)}")
    array = tensor.data
    if tensor.datatype == "BYTES":
        items = np.empty(array.size, np.object_)
        items[:] = [_written(item, base64=tensor.name.endswith("_bytes")) for item in array.ravel()]
        return items.reshape(array.shape).tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _with_bare_tokens(array)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def dumps(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


class _FirstKeyCounts(rapidjson.Decoder):
    def start_object(self) -> list[tuple[str, Any]]:
        return []

    def end_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))


_ERRORS = (rapidjson.JSONDecodeError, UnicodeDecodeError, RecursionError)
_REFUSING = large.Parser(partial(rapidjson.loads, number_mode=_NATIVE), _ERRORS, counts_bytes=True)
_LAST_KEYS = large.Parser(partial(rapidjson.loads, number_mode=_EXACT), _ERRORS, counts_bytes=True)
_FIRST_KEYS = large.Parser(_FirstKeyCounts(number_mode=_EXACT), _ERRORS, counts_bytes=True, first_counts=True)


def _parse_exactly(body: bytes, *, first_key_counts: bool = False) -> Any:
    try:
        members = large.loads(body, _REFUSING)
        if isinstance(members, dict):
            return large.loads(body, _FIRST_KEYS if first_key_counts else _LAST_KEYS)
        return members
    except RecursionError:
        raise InvalidArgument("JSON Parse error: the document is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"JSON Parse error: the document is not UTF-8 at offset: {error.start}") from None
    except rapidjson.JSONDecodeError as error:
        where, _, text = str(error).removeprefix("Parse error at offset ").partition(": ")
        if text == _AFTER_THE_END and where.isdecimal():
            return _parse_exactly(body[: int(where)], first_key_counts=first_key_counts)
        raise InvalidArgument(f"JSON Parse error: {text} at offset: {where}") from None


def _flattened(value: Any) -> tuple[list[Any], list[int]]:
    """The innermost values and the shape, level by level: a deeply nested body must not take the stack."""
    if isinstance(value, large.Elements):
        return _flattened_large(value)
    shape: list[int] = []
    level = [value]
    while level:
        kinds = set(map(type, level))
        if list not in kinds:
            return level, shape
        depth = len(shape)
        if not isinstance(level[0], list) or depth == _MAX_RANK:
            raise _unexpected_list(depth)
        if len(kinds) > 1:
            raise _no_list(level, depth)
        if len(set(map(len, level))) > 1:
            raise _uneven(level, depth)
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    return level, shape


def _flattened_large(value: large.Elements) -> tuple[list[Any], list[int]]:
    shape = [len(value)]
    for level in value.form.levels:
        depth = len(shape)
        values = large.Leaves(value, depth - 1)
        if list not in level.kinds:
            return values, shape
        if level.first is not list or depth == _MAX_RANK:
            raise _unexpected_list(depth)
        if len(level.kinds) > 1:
            raise _no_list(values, depth)
        if len(level.sizes) > 1:
            raise _uneven(values, depth)
        shape.append(min(level.sizes))
    return [], shape


def _unexpected_list(depth: int) -> InvalidArgument:
    return InvalidArgument(f"Encountered list at unexpected level: {depth} expected < {depth}")


def _no_list(level: list[Any], depth: int) -> InvalidArgument:
    other = next(item for item in level if not isinstance(item, list))
    return InvalidArgument(
        f"JSON Value: {shown(other)} found at incorrect level: {depth + 1} in the JSON DOM. "
        f"Expected at level: {depth + _rank(level[0])}"
    )


def _uneven(level: list[Any], depth: int) -> InvalidArgument:
    size = len(level[0])
    other = next(item for item in level if len(item) != size)
    return InvalidArgument(f"Encountered list at unexpected size: {len(other)} at level: {depth} expected size: {size}")


def _rank(value: Any) -> int:
    rank = 0
    while isinstance(value, list):
        rank += 1
        value = value[0] if value else None
    return rank


def _array(values: list[Any], datatype: str) -> Array:
    dtype = DATATYPES[datatype]
    if values and datatype not in TYPE_NAMES:
        raise Unimplemented(f"Conversion of JSON Value: {shown(values[0])} to type: {_kind(datatype)}")
    if datatype == "BYTES":
        return _strings(values)
    wanted = _TAKEN[dtype.kind]
    # numpy must not see other types: it would take true for 1, and of one long string as much memory per value.
    if not large.kinds(values) <= wanted:
        raise _type_error(next(item for item in values if type(item) not in wanted), datatype)
    if dtype.kind == "f":
        # Through double, as RapidJSON does; what float32 cannot hold becomes an infinity.
        with np.errstate(over="ignore"):
            return _joined(values, np.dtype(np.float64), dtype)
    try:
        return _joined(values, dtype, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        raise _type_error(next(i for i in values if not limits.min <= i <= limits.max), datatype) from None


def _joined(values: list[Any], first: np.dtype[Any], dtype: np.dtype[Any]) -> Array:
    """The values as ``first``, and then as ``dtype``."""
    if not isinstance(values, large.Leaves):
        return np.array(values, first).astype(dtype, copy=False)
    array = large.empty(len(values), dtype)
    place = 0
    for piece in values.pieces():
        array[place : place + len(piece)] = np.array(piece, first).astype(dtype, copy=False)
        place += len(piece)
    return array


def _strings(values: list[Any]) -> Array:
    array = np.empty(len(values), np.object_)
    if set(map(type, values)) <= {str}:
        array[:] = [item.encode() for item in values]
        return array
    for index, item in enumerate(values):
        if not isinstance(item, str | dict):
            raise _type_error(item, "BYTES")
        array[index] = string(item)
    return array


def _kind(datatype: str) -> str:
    """TensorFlow's word for a datatype without a JSON form."""
    return _WITHOUT_FORM.get(datatype, datatype.lower())


def _type_error(value: Any, datatype: str) -> InvalidArgument:
    return InvalidArgument(
        f"JSON Value: {shown(value)} Type: {type_name(value)} is not of expected type: {TYPE_NAMES[datatype]}"
    )


def wrapped(error: DuetError, where: str) -> InvalidArgument:
    """An error of one element of ``instances``; whatever its code was, it is INVALID_ARGUMENT then."""
    return InvalidArgument(f"Failed to process {where} of 'instances' list. Error: {error.code.name}: {error.message}")


def _written(item: bytes, *, base64: bool) -> Any:
    if not base64:
        try:
            return item.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": b64encode(item).decode()}


def _with_bare_tokens(array: Array) -> Any:
    flat = array.ravel()
    items = np.empty(flat.size, np.object_)
    # numpy's own numbers, not Python's: orjson writes a float32's shortest decimals of the former only.
    items[:] = [item if np.isfinite(item) else orjson.Fragment(shown(float(item))) for item in flat]
    return items.reshape(array.shape).tolist()
