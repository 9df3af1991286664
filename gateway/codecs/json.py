"""Tensors as JSON values, strictly: a number is never made of a boolean or a string, an integer never of a fraction."""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Any

import numpy as np

from gateway.errors import DataLoss, InvalidArgument, NotAcceptable
from gateway.types import DATATYPES, Array, Tensor

_NO_JSON_FORM = frozenset({"FP16", "BF16"})
_WANTED = {"b": "booleans (true or false)", "i": "integers", "u": "integers", "f": "numbers"}
_ACCEPTED_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


def decode(name: str, datatype: str, shape: tuple[int, ...], data: Any, *, may_hold_booleans: bool) -> Tensor:
    """A tensor of ``data``, which is flat or nested as ``shape`` says.

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
        return Tensor(name, datatype, _strings(name, shape, data))
    dtype = DATATYPES[datatype]
    if may_hold_booleans and dtype.kind != "b" and bool in set(map(type, _flatten(data, len(shape)))):
        raise InvalidArgument(f"tensor {name!r}: {datatype} takes {_WANTED[dtype.kind]}, found a boolean")
    return Tensor(name, datatype, _numbers(name, datatype, shape, data))


def encode(tensor: Tensor) -> Any:
    """What orjson writes as the tensor's flat ``data``: a numpy array (shortest decimals), or a list of strings.

    Raises NotAcceptable or DataLoss for what JSON cannot carry: FP16, BF16, NaN, infinities, bytes that are no UTF-8.
    """
    if tensor.datatype == "BYTES":
        try:
            return [item.decode() for item in tensor.data.ravel()]
        except UnicodeDecodeError:
            raise DataLoss(f"output {tensor.name!r} is not UTF-8 text, which JSON needs; ask for binary data") from None
    if tensor.datatype in _NO_JSON_FORM:
        raise NotAcceptable(f"output {tensor.name!r} is {tensor.datatype}, which has no JSON form; ask for binary data")
    flat = np.ascontiguousarray(tensor.data).reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise DataLoss(f"output {tensor.name!r} holds NaN or infinity, which JSON cannot carry; ask for binary data")
    return flat


def _numbers(name: str, datatype: str, shape: tuple[int, ...], data: list[Any]) -> Array:
    dtype = DATATYPES[datatype]
    try:
        found: Array = np.array(data)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"tensor {name!r}: 'data' is nested unevenly") from None
    if found.size != prod(shape) or (found.ndim != 1 and found.shape != shape):
        raise InvalidArgument(
            f"tensor {name!r}: shape {list(shape)} takes {prod(shape)} values, 'data' has {found.size} "
            f"in the form {list(found.shape)}"
        )
    if found.size == 0:
        return np.empty(shape, dtype)
    if datatype == "UINT64" and found.dtype.kind in "fO":
        found = _large_integers(data, found, len(shape))
    if found.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
        raise InvalidArgument(f"tensor {name!r}: {datatype} takes {_WANTED[dtype.kind]} in its range, nothing else")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise InvalidArgument(f"tensor {name!r}: {datatype} holds {limits.min} to {limits.max}")
        return found.astype(dtype).reshape(shape)
    with np.errstate(over="ignore"):
        array = found.astype(dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidArgument(f"tensor {name!r}: a number is outside the range of {datatype}")
    return array


def _large_integers(data: list[Any], found: Array, depth: int) -> Array:
    """Without a word, numpy makes doubles of integers of which some are above INT64's range and some are not."""
    flat = list(_flatten(data, depth))
    if set(map(type, flat)) != {int} or min(flat) < 0 or max(flat) >= 1 << 64:
        return found
    return np.array(flat, np.uint64).reshape(found.shape)


def _strings(name: str, shape: tuple[int, ...], data: list[Any]) -> Array:
    flat = data if not data or isinstance(data[0], str) else list(_flatten(data, len(shape)))
    if len(flat) != prod(shape):
        raise InvalidArgument(
            f"tensor {name!r}: shape {list(shape)} takes {prod(shape)} strings, 'data' has {len(flat)}"
        )
    items = np.empty(len(flat), np.object_)
    for index, item in enumerate(flat):
        if not isinstance(item, str):
            raise InvalidArgument(f"tensor {name!r}: BYTES takes strings, nothing else")
        items[index] = item.encode()
    return items.reshape(shape)


def _flatten(data: list[Any], depth: int) -> Any:
    """The elements of ``data``, at most ``depth`` lists deep; what lies deeper stays a list and fails its check."""
    for _ in range(depth - 1):
        if not any(isinstance(item, list) for item in data):
            break
        data = list(chain.from_iterable(item if isinstance(item, list) else [item] for item in data))
    return data
