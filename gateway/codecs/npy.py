"""Tensors as ``.npy`` files (numpy's format, versions 1.0 and 2.0): numbers and booleans; never a pickle."""

from __future__ import annotations

from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from gateway.codecs import large, limits
from gateway.codecs.raw import Buffer
from gateway.errors import InvalidArgument, NotAcceptable
from gateway.types import DATATYPES, Array, Tensor

MAGIC = b"\x93NUMPY"

#: Ten times what numpy writes for the plain types that are taken. It takes 10,000 characters itself, which it reads as
#: Python, and where that fails once more as Python 2: 30 ms.
_MAX_HEADER_BYTES = 1 << 10

#: Numbers: of an array whose pages are its own, and of what is looked at together.
_LARGE = 128 << 10
_PIECE = 64 << 10

_NO_NPY_FORM = frozenset({"BF16", "BYTES"})
_ACCEPTED_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
_HEADERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


def decode(name: str, datatype: str, data: Buffer) -> Tensor:
    """The file's array as a tensor of ``datatype``; without a copy where the file has that very type.

    Other number types are converted as JSON's numbers are: an integer is never made of a fraction, and a number must
    lie in the range of ``datatype``. Raises InvalidArgument. Memory is taken only for values that are really there.
    """
    if datatype in _NO_NPY_FORM:
        raise InvalidArgument(f"input {name!r} is {datatype}, which has no .npy form; send it as raw bytes")
    return Tensor(name, datatype, _converted(name, datatype, _read(name, data)))


def encode(tensor: Tensor) -> bytes:
    """The file. Raises NotAcceptable for BF16 and BYTES, which numpy has no type for."""
    if tensor.datatype in _NO_NPY_FORM:
        raise NotAcceptable(f"output {tensor.name!r} is {tensor.datatype}, which has no .npy form; ask for raw bytes")
    stream = BytesIO()
    npy_format.write_array(stream, tensor.data, allow_pickle=False)
    return stream.getvalue()


def is_converted(datatype: str, data: Buffer) -> bool:
    """Whether `decode` goes through all values, since the file has another type. False for what is no file either."""
    try:
        _, _, dtype = _header("", BytesIO(memoryview(data)[: 2 * _MAX_HEADER_BYTES]))
    except InvalidArgument:
        return False
    wanted = DATATYPES.get(datatype)
    return dtype.newbyteorder("=") != wanted or dtype.kind == "b"


def _read(name: str, data: Buffer) -> Array:
    stream = BytesIO(memoryview(data)[: 2 * _MAX_HEADER_BYTES])
    shape, fortran_order, dtype = _header(name, stream)
    values = memoryview(data)[stream.tell() :]
    _check_size(name, shape, dtype, len(values))
    flat = np.frombuffer(values, dtype)
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def _header(name: str, stream: BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        return _HEADERS[npy_format.read_magic(stream)](stream, max_header_size=_MAX_HEADER_BYTES)
    except KeyError:
        raise InvalidArgument(f"input {name!r}: only versions 1.0 and 2.0 of the .npy format are read") from None
    # The header is a Python literal: a hostile one raises whatever Python's parser and tokenizer can raise.
    except Exception as error:
        raise InvalidArgument(f"input {name!r} is no valid .npy file") from error


def _check_size(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], size_bytes: int) -> None:
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise InvalidArgument(f"input {name!r}: the .npy file holds {dtype}; only numbers and booleans are taken")
    if len(shape) > 32 or min(shape, default=0) < 0:
        raise InvalidArgument(f"input {name!r}: the .npy file's shape {shape} cannot be")
    limits.check_empty(name, shape)
    if prod(shape) * dtype.itemsize != size_bytes:
        wanted = prod(shape) * dtype.itemsize
        raise InvalidArgument(f"input {name!r}: shape {list(shape)} of {dtype} takes {wanted} bytes, got {size_bytes}")


def _converted(name: str, datatype: str, found: Array) -> Array:
    dtype = DATATYPES[datatype]
    if found.dtype.newbyteorder("=") == dtype:
        return _checked_booleans(name, found) if dtype.kind == "b" else found
    if found.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
        raise InvalidArgument(f"input {name!r}: the .npy file holds {found.dtype}; the model takes {datatype}")
    limits.check_widened(f"input {name!r}", found.nbytes, found.size * dtype.itemsize)
    if dtype.kind in "iu" and found.size:
        span = np.iinfo(dtype)
        if int(found.min()) < span.min or int(found.max()) > span.max:
            raise InvalidArgument(f"input {name!r}: {datatype} holds {span.min} to {span.max}")
    array = _empty(found.shape, dtype)
    with np.errstate(over="ignore"):
        np.copyto(array, found, casting="unsafe")
    if dtype.kind == "f" and _overflows(found, array):
        raise InvalidArgument(f"input {name!r}: a number is outside the range of {datatype}")
    return array


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A large one is made aside, whose pages are given back there as they are sent here."""
    count = prod(shape)
    return large.empty(count, dtype).reshape(shape) if count >= _LARGE else np.empty(shape, dtype)


def _overflows(found: Array, converted: Array) -> bool:
    """Whether a finite number has become none. In pieces: masks of all values would be as large as those are."""
    pieces = np.nditer([found, converted], flags=["external_loop", "buffered", "zerosize_ok"], buffersize=_PIECE)
    return any(
        not np.isfinite(made).all() and bool(np.isfinite(given[~np.isfinite(made)]).any()) for given, made in pieces
    )


def _checked_booleans(name: str, found: Array) -> Array:
    if found.size and found.view(np.uint8).max() > 1:
        raise InvalidArgument(f"input {name!r}: a boolean of the .npy file is neither 0 nor 1")
    return found
