"""The request that an imported model is tried with: the user's own rows, or zeros and empty texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    """Rows by input name, from .npy (one nameless input), .npz or .json: {"NAME": [[...], ...]}.

    JSON's numbers with a point become FP32, those without INT64, texts BYTES. Raises ImportRefusedError.
    """
    try:
        if path.suffix == ".npy":
            return {"": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as opened:
                return dict(opened.items())
        return from_json(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise ImportRefusedError(f"--example {path}: there is no such file") from None
    except (ValueError, EOFError) as error:
        raise ImportRefusedError(
            f'--example {path}: {error}; it can be .npy, .npz, or .json as {{"NAME": [[1.0, 2.0]]}}'
        ) from error


def from_json(value: object) -> Named:
    if not isinstance(value, dict) or not value:
        raise ValueError("it must be an object of inputs by name")
    arrays = {str(name): np.asarray(rows) for name, rows in value.items()}
    carried = {"f": np.float32, "i": np.int64, "b": np.bool_, "U": np.object_}
    for name, array in arrays.items():
        if array.dtype.kind not in carried:
            raise ValueError(f"{name} is neither numbers, truth values nor texts, or its rows differ in length")
    return {name: array.astype(carried[array.dtype.kind]) for name, array in arrays.items()}


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
    """JSON-able, texts as text."""
    texts = np.vectorize(lambda text: text.decode("utf-8", "replace"), [object])
    return {
        spec.name: (texts(array) if spec.datatype == "BYTES" and array.size else array).tolist()
        for spec, array in zip(inputs, arrays, strict=True)
    }
