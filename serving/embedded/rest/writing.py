"""Answers as TensorFlow Serving lays them out: RapidJSON's PrettyWriter, its own decimals (json_tensor.cc).

Text is assembled as `str`; bytes that are no UTF-8 travel in it as surrogates, and `finish` puts them out as they were.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.rest.reading import dtype_name
from serving.embedded.tensors import Array

#: Ours: with a line and its indentation for each value, an answer can be a hundred times its tensors.
MAX_ANSWER_BYTES = 256 << 20
_INTEGERS = frozenset(
    getattr(types_pb2, f"DT_{name}") for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT32", "UINT64")
)
_FLOATS = {types_pb2.DT_FLOAT: 9, types_pb2.DT_DOUBLE: 17}
_SPECIAL = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_ESCAPED = re.compile(r'[\x00-\x1f"\\]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def finish(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def error(message: str) -> str:
    return f'{{\n    "error": {quote(message)}\n}}'


def rows(outputs: Mapping[str, Array], dtypes: Mapping[str, int]) -> str:
    """``predictions``: one line, for each row a value, or an object if there are several outputs.

    Raises ServingError (INVALID_ARGUMENT) where an output has no batch dimension, or another than the others.
    """
    size = -1
    for name, array in sorted(outputs.items()):
        if not array.ndim:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if size not in (-1, len(array)):
            raise invalid_argument(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}")
        size = len(array)
    several = len(outputs) > 1
    columns = {}
    for name, array in sorted(outputs.items()):
        leaves = _leaves(name, array, dtypes[name], level=3 if several else 2, rank=array.ndim - 1)
        columns[name] = _split(leaves, size, array.shape[1:])
    if not size:
        return '{\n    "predictions": []\n}'
    if several:
        objects = (
            ",\n".join(f"            {quote(name)}: {column[row]}" for name, column in columns.items())
            for row in range(size)
        )
        inside = "\n" + ",\n".join(f"        {{\n{members}\n        }}" for members in objects)
    else:
        inside = ", ".join(next(iter(columns.values())))
    return f'{{\n    "predictions": [{inside}\n    ]\n}}'


def columns(outputs: Mapping[str, Array], dtypes: Mapping[str, int]) -> str:
    """``outputs``: a value, or an object if there are several outputs. Raises ServingError (INVALID_ARGUMENT)."""
    level = 2 if len(outputs) > 1 else 1
    if sum(array.size * 4 * (level + array.ndim) for array in outputs.values()) > MAX_ANSWER_BYTES:
        raise invalid_argument("the answer is too large to be laid out in columns; ask in rows, or for fewer at once")
    values = {}
    for name, array in sorted(outputs.items()):
        leaves = _leaves(name, array, dtypes[name], level=level, rank=array.ndim)
        values[name] = _nested(leaves, array.shape, level)
    if len(outputs) == 1:
        return f'{{\n    "outputs": {next(iter(values.values()))}\n}}'
    members = ",\n".join(f"        {quote(name)}: {value}" for name, value in values.items())
    return f'{{\n    "outputs": {{\n{members}\n    }}\n}}'


def classifications(result: classification_pb2.ClassificationResult) -> str:
    inside = ", ".join(
        "[" + ", ".join(f"[{quote(entry.label)}, {decimals([entry.score])[0]}]" for entry in row.classes) + "]"
        for row in result.classifications
    )
    return f'{{\n    "results": [{inside}\n    ]\n}}'


def regressions(result: regression_pb2.RegressionResult) -> str:
    inside = ", ".join(decimals([entry.value for entry in result.regressions]))
    return f'{{\n    "results": [{inside}]\n}}'


def quote(text: str) -> str:
    """
    >>> quote('a"b/\\x01')
    '"a\\\\"b/\\\\u0001"'
    """
    return '"' + _ESCAPED.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04X}", text) + '"'


def decimals(values: Sequence[float], digits: int = 9) -> list[str]:
    """Six digits if they read back as the same number, else ``digits``; never without ``.`` or ``e``.

    >>> decimals([1.0, 0.1, 1234567.0, 9e6, float("inf")])
    ['1.0', '0.1', '1234567.0', '9e+06', 'Infinity']
    """
    short = [f"{value:.6g}" for value in values]
    kind = np.float32 if digits == 9 else np.float64
    with np.errstate(over="ignore", invalid="ignore"):
        same = np.array([float(text) for text in short], np.float64).astype(kind) == np.array(values, kind)
    return [
        _decimal(text if equal else f"{value:.{digits}g}")
        for text, equal, value in zip(short, same.tolist(), values, strict=True)
    ]


def _decimal(text: str) -> str:
    if "." in text or "e" in text:
        return text
    return _SPECIAL.get(text) or text + ".0"


def _leaves(name: str, array: Array, dtype: int, *, level: int, rank: int) -> list[str]:
    """Every value's text; ``level`` and ``rank`` say how deep it will stand, which the layout of objects needs."""
    values = array.reshape(-1).tolist()
    if dtype in _FLOATS:
        return decimals(values, _FLOATS[dtype])
    if dtype in _INTEGERS:
        return list(map(str, values))
    if dtype == types_pb2.DT_BOOL:
        return ["true" if value else "false" for value in values]
    if dtype == types_pb2.DT_STRING:
        raw = [value if isinstance(value, bytes) else value.encode() for value in values]
        if not name.endswith("_bytes"):
            return [quote(value.decode("utf-8", "surrogateescape")) for value in raw]
        outer = "    " * (level + rank)
        return [f'{{\n{outer}    "b64": "{base64.b64encode(value).decode()}"\n{outer}}}' for value in raw]
    if not values:
        return []
    raise _cannot_write(dtype)


def _cannot_write(dtype: int) -> ServingError:
    return invalid_argument(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")


def _split(leaves: list[str], size: int, shape: tuple[int, ...]) -> list[str]:
    """A text for each row, on one line."""
    step = int(np.prod(shape))
    return [_line(leaves[row * step : (row + 1) * step], shape) for row in range(size)]


def _line(leaves: list[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return leaves[0]
    if len(shape) == 1:
        return "[" + ", ".join(leaves) + "]"
    return "[" + ", ".join(_split(leaves, shape[0], shape[1:])) + "]"


def _nested(leaves: list[str], shape: tuple[int, ...], level: int) -> str:
    """A value a line; ``level`` brackets stand open before."""
    if not shape:
        return leaves[0]
    if not shape[0]:
        return "[]"
    step = len(leaves) // shape[0]
    parts = [_nested(leaves[at * step : (at + 1) * step], shape[1:], level + 1) for at in range(shape[0])]
    indent = "    " * (level + 1)
    return "[\n" + indent + f",\n{indent}".join(parts) + "\n" + "    " * level + "]"
