"""The request that an imported model is tried with: the user's own rows, or zeros and empty texts."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.codecs import v2
from gateway.errors import DuetError
from models.importing.request import ImportRefusedError
from models.spec import Array, TensorSpec

# BF16 has no numpy type: its values are carried as float32, and are cast where the framework gets them.
NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": np.float32,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
Named = dict[str, Array]


def read(path: Path) -> Named:
    """Rows by input name, from a file of one of these kinds; "" names the one input. Raises ImportRefusedError.

    .npy (one nameless input), .npz, .json as {"NAME": [[...], ...]} or as a request of the Open Inference Protocol.
    JSON's numbers with a point become FP32, those without INT64, texts BYTES; `{"b64": "..."}` stands for bytes, as in
    TensorFlow Serving's JSON. Any other file, an image for one, is one element of BYTES itself.
    """
    try:
        if path.suffix == ".npy":
            return {"": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as opened:
                return dict(opened.items())
        if path.suffix == ".json":
            return from_json(path.read_bytes())
        return {"": whole(path.read_bytes())}
    except OSError as error:
        raise ImportRefusedError(f"--example {path}: {missing(error)}") from None
    except (ValueError, EOFError, DuetError) as error:
        raise ImportRefusedError(
            f'--example {path}: {error}; it can be .npy, .npz, or .json as {{"NAME": [[1.0, 2.0]]}}'
        ) from error


def read_bytes(path: Path) -> bytes:
    """The file as it is, for a handler of the user's own. Raises ImportRefusedError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImportRefusedError(f"--example {path}: {missing(error)}") from None


def missing(error: OSError) -> str:
    return "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)


def whole(content: bytes) -> Array:
    array = np.empty(1, np.object_)
    array[0] = content
    return array


def from_json(content: bytes) -> Named:
    value = json.loads(content)
    if not isinstance(value, dict) or not value:
        raise ValueError("it must be an object of inputs by name")
    if is_request(value):
        return {tensor.name: tensor.data for tensor in v2.decode_request(content).inputs}
    return {str(name): of_rows(name, rows) for name, rows in value.items()}


def is_request(value: Mapping[str, Any]) -> bool:
    entries = value.get("inputs")
    return isinstance(entries, list) and bool(entries) and all(isinstance(e, dict) and "name" in e for e in entries)


def of_rows(name: object, rows: object) -> Array:
    array = np.asarray(rows)
    if array.dtype.kind == "O" and all(isinstance(one, (str, dict)) for one in array.ravel()):
        flat = [from_base64(str(name), one) if isinstance(one, dict) else one for one in array.ravel()]
        found = np.empty(array.shape, np.object_)
        found.reshape(-1)[:] = flat
        return found
    carried = {"f": np.float32, "i": np.int64, "b": np.bool_, "U": np.object_}
    if array.dtype.kind not in carried:
        raise ValueError(f"{name} is neither numbers, truth values nor texts, or its rows differ in length")
    return array.astype(carried[array.dtype.kind])


def from_base64(name: str, value: Mapping[str, Any]) -> bytes:
    text = value.get("b64")
    if set(value) != {"b64"} or not isinstance(text, str):
        raise ValueError(f'{name}: an object stands for bytes, and must be {{"b64": "..."}}')
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{name}: {text[:40]!r} is not base64: {error}") from None


def specs(given: Mapping[str, Array], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Inputs as the example has them, its first dimension free; a nameless one takes the one name in `names`."""
    return tuple(
        TensorSpec(name or (names[0] if names else "input"), datatype(array), (-1, *array.shape[1:])[: array.ndim])
        for name, array in given.items()
    )


def datatype(array: Array) -> str:
    for name, kind in NUMPY_TYPES.items():
        if array.dtype == kind and name != "BF16":
            return name
    return "BYTES"


def rows(inputs: Sequence[TensorSpec], given: Mapping[str, Array], source: str) -> tuple[Array, ...]:
    """One row, or as many as the signature fixes, of each input in the signature's order. Raises ImportRefusedError."""
    if not given:
        return tuple(blank(spec) for spec in inputs)
    if set(given) == {""} and len(inputs) == 1:
        given = {inputs[0].name: given[""]}
    needed = {spec.name for spec in inputs if not spec.optional}
    if not needed <= set(given) <= {spec.name for spec in inputs}:
        wanted = ", ".join(spec.name for spec in inputs)
        raise ImportRefusedError(f"--example {source}: it has {', '.join(given)}; the model's inputs are {wanted}")
    return tuple(cast(spec, given[spec.name], source) if spec.name in given else blank(spec) for spec in inputs)


def blank(spec: TensorSpec) -> Array:
    shape = [1 if size == -1 else size for size in spec.shape]
    return np.full(shape, b"", object) if spec.datatype == "BYTES" else np.zeros(shape, NUMPY_TYPES[spec.datatype])


def cast(spec: TensorSpec, array: Array, source: str) -> Array:
    if spec.datatype == "BYTES" and array.size == 1 and array.ndim == 1:
        array = array.reshape([1] * len(spec.shape))  # a whole file, whatever the rank
    if array.ndim != len(spec.shape) or any(w not in (-1, s) for s, w in zip(array.shape, spec.shape, strict=True)):
        raise ImportRefusedError(
            f"--example {source}: {spec.name} has shape {list(array.shape)}, the model takes {list(spec.shape)}"
        )
    if spec.shape[:1] == (-1,):
        array = array[:1]
    if spec.datatype != "BYTES":
        return array.astype(NUMPY_TYPES[spec.datatype])
    encoded: Array = np.vectorize(lambda text: text if isinstance(text, bytes) else str(text).encode(), [object])(array)
    return encoded


def repeated(inputs: Sequence[TensorSpec], one: tuple[Array, ...], count: int) -> tuple[Array, ...]:
    """The same row `count` times where the first dimension is free."""
    return tuple(
        np.repeat(array, count, axis=0) if spec.shape[:1] == (-1,) else array
        for spec, array in zip(inputs, one, strict=True)
    )


def as_lists(inputs: Sequence[TensorSpec], arrays: tuple[Array, ...]) -> dict[str, Any]:
    """JSON-able: texts as text, and bytes that are no text as `{"b64": "..."}`, so that nothing is lost."""
    return {
        spec.name: (
            np.vectorize(as_json, [object])(array) if spec.datatype == "BYTES" and array.size else array
        ).tolist()
        for spec, array in zip(inputs, arrays, strict=True)
    }


def as_json(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"b64": b64encode(element).decode()}
