"""Tensors as JSON values, strictly: a number is never made of a boolean or a string, an integer never of a fraction."""

from __future__ import annotations

import binascii
from array import array
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from gateway.codecs import large, limits
from gateway.errors import InvalidArgument, NotAcceptable
from gateway.types import DATATYPES, Array, Tensor

_NO_JSON_FORM = frozenset({"FP16", "BF16"})
_WANTED = {"b": "booleans (true or false)", "i": "integers", "u": "integers", "f": "numbers"}


def decode(
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    data: Any,
    *,
    may_hold_booleans: bool,
    base64: bool = False,
    budget: limits.Budget | None = None,
) -> Tensor:
    """A tensor of ``data``, which is flat or nested as ``shape`` says. ``base64``: so are its strings, for BYTES.

    ``may_hold_booleans`` is False where the caller knows that the document has neither ``true`` nor ``false`` in it;
    otherwise numbers are searched for them, which numpy would take for 1 and 0. Raises InvalidArgument.
    """
    if datatype not in DATATYPES:
        raise InvalidArgument(f"tensor {name!r}: unknown datatype {datatype!r}; known are {', '.join(DATATYPES)}")
    if datatype in _NO_JSON_FORM:
        raise InvalidArgument(f"tensor {name!r}: {datatype} has no JSON form; send it in the binary tensor extension")
    if not isinstance(data, list):
        raise InvalidArgument(f"tensor {name!r}: 'data' must be a list")
    if datatype == "BYTES":
        return Tensor(name, datatype, _strings(name, shape, data, base64, budget))
    dtype = DATATYPES[datatype]
    if may_hold_booleans and dtype.kind != "b" and _holds_boolean(data, len(shape)):
        raise InvalidArgument(f"tensor {name!r}: {datatype} takes {_WANTED[dtype.kind]}, found a boolean")
    return Tensor(name, datatype, _numbers(name, datatype, shape, data))


def encode(tensor: Tensor, *, instead: str = "ask for binary data") -> Any:
    """What orjson writes as the tensor's flat ``data``: a numpy array (shortest decimals), or a list of strings.

    Raises NotAcceptable for what JSON cannot carry: FP16, BF16, NaN, infinities, bytes that are no UTF-8. The error
    says what to do ``instead``. Triton writes NaN and infinities bare, which is no JSON, and of which orjson and
    browsers make an error without a word of the model.
    """
    if tensor.datatype == "BYTES":
        try:
            return [item.decode() for item in tensor.data.ravel()]
        except UnicodeDecodeError:
            raise NotAcceptable(f"output {tensor.name!r} is not UTF-8 text, which JSON needs; {instead}") from None
    if tensor.datatype in _NO_JSON_FORM:
        raise NotAcceptable(f"output {tensor.name!r} is {tensor.datatype}, which has no JSON form; {instead}")
    flat = np.ascontiguousarray(tensor.data).reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise NotAcceptable(f"output {tensor.name!r} holds NaN or infinity, which JSON cannot carry; {instead}")
    return flat


def is_base64(value: Any) -> bool:
    """Whether it is ``{"b64": "..."}``, which stands for a string of any bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def of_base64(name: str, text: str | bytes) -> bytes:
    """The standard alphabet; padding may be left out. Raises InvalidArgument."""
    try:
        encoded = text.encode("ascii") if isinstance(text, str) else text
        return binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError as error:  # binascii.Error too, and what is not ASCII
        raise InvalidArgument(f"tensor {name!r}: an element is no Base64 of the standard alphabet: {error}") from None


def _numbers(name: str, datatype: str, shape: tuple[int, ...], data: list[Any]) -> Array:
    if isinstance(data, large.Elements):
        return _large_numbers(name, datatype, shape, data)
    found = _typed(name, datatype, _even(name, shape, data))
    return _in_range(name, datatype, found).reshape(shape)


def _large_numbers(name: str, datatype: str, shape: tuple[int, ...], data: large.Elements) -> Array:
    """The same, piece by piece. A value of another type counts before a number that is out of range, wherever it is."""
    depth = _even_depth(name, shape, data)
    values = large.empty(prod(shape), DATATYPES[datatype])
    place, fault = 0, None
    for piece in data.at(depth):
        found = _typed(name, datatype, piece)
        try:
            values[place : place + len(piece)] = _in_range(name, datatype, found)
        except InvalidArgument as error:
            fault = error
        place += len(piece)
    if fault is not None:
        raise fault
    return values.reshape(shape)


def _typed(name: str, datatype: str, flat: list[Any]) -> Array:
    """By ``array.array``, which takes numbers alone: of strings, numpy would make elements as wide as the longest."""
    dtype = DATATYPES[datatype]
    if dtype.kind == "b":
        if set(map(type, flat)) - {bool}:
            raise InvalidArgument(f"tensor {name!r}: {datatype} takes {_WANTED['b']}")
        return np.array(flat, np.bool_)
    typecode = "d" if dtype.kind == "f" else "Q" if datatype == "UINT64" else "q"
    try:
        return np.frombuffer(array(typecode, flat), typecode)
    except TypeError:
        raise InvalidArgument(f"tensor {name!r}: {datatype} takes {_WANTED[dtype.kind]}, nothing else") from None
    except OverflowError:
        raise _out_of_range(name, datatype) from None


def _in_range(name: str, datatype: str, found: Array) -> Array:
    dtype = DATATYPES[datatype]
    if dtype.kind == "b":
        return found
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if found.size and (int(found.min()) < limits.min or int(found.max()) > limits.max):
            raise _out_of_range(name, datatype)
        return found.astype(dtype)
    with np.errstate(over="ignore"):
        values: Array = found.astype(dtype)
    if not np.isfinite(values).all():
        raise _out_of_range(name, datatype)
    return values


def _out_of_range(name: str, datatype: str) -> InvalidArgument:
    dtype = DATATYPES[datatype]
    if dtype.kind == "f":
        return InvalidArgument(f"tensor {name!r}: a number is outside the range of {datatype}")
    limits = np.iinfo(dtype)
    return InvalidArgument(f"tensor {name!r}: {datatype} holds {limits.min} to {limits.max}")


def _even(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    """The elements of ``data``, which is flat or nested exactly as ``shape`` says. Raises InvalidArgument."""
    form = [len(data)]
    while data and isinstance(data[0], list) and len(form) <= len(shape):
        sizes = {len(item) if isinstance(item, list) else -1 for item in data}
        if len(sizes) > 1:
            raise _uneven(name)
        form.append(sizes.pop())
        data = list(chain.from_iterable(data))
    _check_count(name, shape, len(data), form)
    return data


def _even_depth(name: str, shape: tuple[int, ...], data: large.Elements) -> int:
    """How deep the elements of ``data`` lie. Raises as `_even` does."""
    levels, form = data.form.levels, [len(data)]
    while (depth := len(form) - 1) < len(levels) and levels[depth].first is list and len(form) <= len(shape):
        sizes = levels[depth].sizes
        if len(sizes) > 1:
            raise _uneven(name)
        form.append(min(sizes))
    count = levels[depth].count if depth < len(levels) else 0
    _check_count(name, shape, count, form)
    return depth


def _uneven(name: str) -> InvalidArgument:
    return InvalidArgument(f"tensor {name!r}: 'data' is nested unevenly")


def _check_count(name: str, shape: tuple[int, ...], count: int, form: list[int]) -> None:
    if count != prod(shape) or (len(form) > 1 and count and tuple(form) != shape):
        wanted = f"shape {list(shape)} takes {prod(shape)} values"
        raise InvalidArgument(f"tensor {name!r}: {wanted}, 'data' has {count} in the form {form}")


def _strings(name: str, shape: tuple[int, ...], data: list[Any], base64: bool, budget: limits.Budget | None) -> Array:
    """An element is a string, or ``{"b64": "..."}`` for one of any bytes."""
    flat = data if not data or isinstance(data[0], str) else _flatten(data, len(shape))
    count = sum(map(len, flat.pieces())) if isinstance(flat, large.Opened) else len(flat)
    if count != prod(shape):
        raise InvalidArgument(f"tensor {name!r}: shape {list(shape)} takes {prod(shape)} strings, 'data' has {count}")
    if budget is not None:
        budget.strings(name, count)
    items = np.empty(count, np.object_)
    for index, item in enumerate(flat):
        if isinstance(item, str):
            items[index] = of_base64(name, item) if base64 else item.encode()
        elif is_base64(item):
            items[index] = of_base64(name, item["b64"])
        else:
            raise InvalidArgument(f'tensor {name!r}: BYTES takes strings, or {{"b64": "..."}}, and nothing else')
    return items.reshape(shape)


def _holds_boolean(data: list[Any], depth: int) -> bool:
    if isinstance(data, large.Elements):
        return any(place < max(depth, 1) for place in data.form.booleans)
    return bool in set(map(type, _flatten(data, depth)))


def _flatten(data: list[Any], depth: int) -> Any:
    """The elements of ``data``, at most ``depth`` lists deep; what lies deeper stays a list and fails its check."""
    if isinstance(data, large.Elements):
        return large.Opened(data, max(depth - 1, 0))
    for _ in range(depth - 1):
        if not any(isinstance(item, list) for item in data):
            break
        data = list(chain.from_iterable(item if isinstance(item, list) else [item] for item in data))
    return data
