"""Rows for a trial: of very different scale and sign, special values, and what the example has with changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.importing.examples import NUMPY_TYPES
from models.spec import Array, TensorSpec

Row = tuple[Array, ...]
"""One row of each input, each with a first dimension of 1."""

SCALES = (1.0, 1e-6, 1e6, 1e-3, 1e3)
UPPER_BOUNDS = (2, 4, 10, 30, 100, 1_000, 100_000)
"""Of whole numbers, which may be indices or lengths: one above what a model knows fails, and proves nothing."""
TEXTS = (
    "",
    "a",
    "good bad, not good!",
    "0 1 2 3.5",
    "word " * 400,
    "na\u00efve \u4e0d\u9519 \U0001f600",
    " \t\n",
    "x" * 3000,
    "A B C D",
)
LARGEST = 2**62
"""Both a float and an INT64: no datatype's arithmetic overflows on the way there."""
MOST_ELEMENTS = 4_000_000
FEWEST, MOST = 4, 22


def rows(inputs: Sequence[TensorSpec], one: Row, random: np.random.Generator) -> Iterator[Row]:
    """Candidates; whether the model takes them is not known. The example comes first.

    After each of several inputs comes its milder form, with the example's own indices and texts.
    """
    example = tuple(array[:1] for array in one)
    yield example
    kinds = [list(values(spec, array, random)) for spec, array in zip(inputs, example, strict=True)]
    for place in range(max(map(len, kinds))):
        wild = tuple(kind[(place + shift * shift) % len(kind)] for shift, kind in enumerate(kinds))
        yield wild
        mild = tuple(
            drawn if is_float(spec) else given for spec, drawn, given in zip(inputs, wild, example, strict=True)
        )
        if any(map(is_float, inputs)) and not all(map(is_float, inputs)):
            yield mild


def most(one: Row) -> int:
    """How many rows to try: fewer of large ones."""
    return int(np.clip(MOST_ELEMENTS // max(1, sum(array[:1].size for array in one)), FEWEST, MOST))


def is_float(spec: TensorSpec) -> bool:
    return spec.datatype in ("FP16", "BF16", "FP32", "FP64")


def values(spec: TensorSpec, example: Array, random: np.random.Generator) -> Iterator[Array]:
    if spec.datatype == "BYTES":
        yield from texts(example, random)
    elif is_float(spec):
        largest = float(np.finfo(NUMPY_TYPES[spec.datatype]).max) / 8
        for row in floats(np.clip(example.astype(np.float64), -largest, largest), random):
            yield np.clip(row, -largest, largest).astype(NUMPY_TYPES[spec.datatype])
    elif spec.datatype == "BOOL":
        yield from (random.random(example.shape) < share for share in (0.5, 0.0, 1.0, 0.2, 0.8))
    else:
        yield from whole(example, np.iinfo(NUMPY_TYPES[spec.datatype]), random)


def floats(example: Array, random: np.random.Generator) -> Iterator[Array]:
    shape = example.shape
    for scale in SCALES:
        yield random.standard_normal(shape) * scale
    yield np.zeros(shape)
    yield random.random(shape)  # as of an image
    yield example * (1 + 0.1 * random.standard_normal(shape))
    yield -np.abs(random.standard_normal(shape)) * 30
    yield np.ones(shape)
    yield example + random.standard_normal(shape)
    yield -np.ones(shape)
    yield np.abs(random.standard_normal(shape)) * 1e4
    yield np.where(np.arange(example.size).reshape(shape) == example.size // 2, 1e5, 0.0)
    yield random.integers(-3, 4, shape).astype(np.float64)
    yield random.standard_normal(shape) * 1e-6
    yield -random.random(shape) * 1e6
    yield random.integers(0, 256, shape).astype(np.float64)
    yield random.standard_normal(shape) * 10.0 ** random.integers(-6, 7, shape)


def whole(example: Array, limits: np.iinfo[Any], random: np.random.Generator) -> Iterator[Array]:
    def within(row: Array) -> Array:
        return np.clip(row, max(int(limits.min), -LARGEST), min(int(limits.max), LARGEST)).astype(example.dtype)

    shape = example.shape
    top = int(example.max()) if example.size else 0
    yield within(random.integers(0, min(max(top, 1), UPPER_BOUNDS[-1]) + 1, shape))
    for bound in UPPER_BOUNDS:
        yield within(random.integers(0, bound, shape))
    yield within(np.zeros(shape))
    yield within(np.ones(shape))
    yield within(random.permutation(example.ravel()).reshape(shape))
    yield within(np.full(shape, -1))
    yield within(example.astype(np.float64) + random.integers(-1, 2, shape))
    yield within(random.integers(-1000, 1001, shape))


def texts(example: Array, random: np.random.Generator) -> Iterator[Array]:
    def filled(elements: Sequence[bytes]) -> Array:
        row = np.empty(example.shape, object)
        row.reshape(-1)[:] = elements
        return row

    given = [one for one in example.ravel() if isinstance(one, bytes)] or [b""]
    for text in TEXTS:
        yield filled([text.encode()] * example.size)
    yield filled([given[place][: len(given[place]) // 2] for place in random.integers(len(given), size=example.size)])
    yield filled([given[place] + b" again" for place in random.integers(len(given), size=example.size)])
    yield filled([TEXTS[place].encode() for place in random.integers(len(TEXTS), size=example.size)])
    yield filled([b"\xff\x00\x80"] * example.size)
