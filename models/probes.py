"""Inputs that two twins are compared on: real rows, the edges of the data's range, and noise within it, by seed."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping

import numpy as np

from models.spec import Array, ModelSpec, TensorSpec

DTYPES = {
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
    "FP32": np.float32,
    "FP64": np.float64,
}
REAL_SHARE = 0.4
REPEATS = 16
SPOILED_SHARE = 1 / 8
LONG_TEXT_CHARACTERS = 10_000
EDGE_TEXTS = (
    "",
    " ",
    "a",
    "\t\n\r",
    "!?.,;:-",
    "NOT GOOD",
    "don't",
    "0123456789",
    "caf\u00e9",
    "cafe\u0301",
    "\u0130stanbul \u1e9e \u01c5",  # letters whose small form is longer, shorter, or of a third case
    "\u4e0d\u9519\u7684\u7535\u5f71",
    "\u0444\u0438\u043b\u044c\u043c",
    "\u0641\u064a\u0644\u0645 \u062c\u064a\u062f",
    "\U0001f600 good \U0001f469\u200d\U0001f680",
    "no\u00a0break\u2003space\u200bnone",
    "good " * (LONG_TEXT_CHARACTERS // 5),
    "x" * LONG_TEXT_CHARACTERS,
    "\u00e9" * LONG_TEXT_CHARACTERS,
)


def probes(spec: ModelSpec, rows: int, seed: int) -> tuple[Array, ...]:
    """`rows` rows of each input in the signature's order, the same for the same seed."""
    random = np.random.default_rng(seed)
    return tuple(
        text_rows(real, rows, random) if tensor.datatype == "BYTES" else number_rows(tensor, real, rows, random)
        for tensor, real in zip(spec.inputs, real_inputs(spec), strict=True)
    )


def real_inputs(spec: ModelSpec) -> tuple[Array, ...]:
    """Rows of the default data; the model's example where the data is not in the form that the model is served with."""
    data = spec.datasets[spec.default_dataset]()
    held_out, train = data.held_out.inputs, data.train.inputs
    if len(held_out) == len(spec.inputs) and all(map(fits, held_out, spec.inputs)):
        return tuple(np.concatenate(parts) for parts in zip(held_out, train, strict=True))
    example = spec.example().inputs
    return tuple(as_array(tensor, example[tensor.name]) for tensor in spec.inputs)


def fits(array: Array, tensor: TensorSpec) -> bool:
    sizes = zip(array.shape, tensor.shape, strict=True) if array.ndim == len(tensor.shape) else [(0, 1)]
    return all(wanted in (-1, size) for size, wanted in sizes)


def as_array(tensor: TensorSpec, values: object) -> Array:
    """Nested lists in the tensor's type. Texts become `bytes`, and so does `{"b64": "..."}`."""
    if tensor.datatype != "BYTES":
        return np.array(values, DTYPES[tensor.datatype])
    array = np.array(values, object)
    encoded: Array = np.vectorize(element, otypes=[object])(array)
    return encoded


def element(value: str | bytes | Mapping[str, str]) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else b64decode(value["b64"])


def number_rows(tensor: TensorSpec, real: Array, rows: int, random: np.random.Generator) -> Array:
    low, high = data_range(tensor, real)
    chosen = [*edge_rows(tensor, low, high), *[real[random.integers(len(real))]] * REPEATS]
    chosen += list(real[random.integers(len(real), size=round(REAL_SHARE * rows))])
    chosen += list(noise(tensor, real, low, high, max(0, rows - len(chosen)), random))
    return np.stack(chosen[:rows]).astype(DTYPES[tensor.datatype])


def data_range(tensor: TensorSpec, real: Array) -> tuple[Array, Array]:
    """Smallest and greatest value of each element of a row.

    Of each element alone where the row is a list of features, which differ in unit; of all where it is an image or a
    series, in which some places are never touched by the data.
    """
    numbers = real.astype(np.float64)
    axis = 0 if numbers.ndim == 2 else None
    low, high = numbers.min(axis=axis), numbers.max(axis=axis)
    if tensor.datatype.startswith("FP") and float(np.max(high - low)) == 0:
        low, high = low - 1, high + 1  # a state that starts from zeros
    shape = real.shape[1:]
    return np.broadcast_to(low, shape), np.broadcast_to(high, shape)


def edge_rows(tensor: TensorSpec, low: Array, high: Array) -> Iterator[Array]:
    """Zeros, ones, the range's ends, its middle, ends in turn, one element alone, and the smallest steps from zero."""
    size = max(1, low.size)
    alone = (np.arange(size) == size // 2).reshape(low.shape)
    in_turn = (np.arange(size) % 2 == 0).reshape(low.shape)
    rows = [np.zeros(low.shape), np.ones(low.shape), low, high, (low + high) / 2]
    rows += [np.where(mask, one, other) for mask in (in_turn, alone) for one, other in ((low, high), (high, low))]
    rows.append(low + (high - low) * np.linspace(0, 1, size).reshape(low.shape))
    if tensor.datatype.startswith("FP"):
        rows += [np.full(low.shape, tiny) for tiny in (np.finfo(np.float32).tiny, np.finfo(np.float32).eps)]
    for row in rows:
        yield row if tensor.datatype.startswith("FP") else np.clip(np.floor(row), low, high)


def noise(tensor: TensorSpec, real: Array, low: Array, high: Array, rows: int, random: np.random.Generator) -> Array:
    """Numbers of chance within the range; of whole numbers, real rows with an eighth of them replaced.

    A series of chance alone drives a recurrent state to where no data does, and there float32 has too few digits: of
    1,024 such series one left the twins of `lstm_text_generator` 1.2 times (1e-5 + 1e-4 of the value) apart, and each
    of them about once that from the same weights in float64; of real and of spoiled series 0.4.
    """
    share = random.uniform(size=(rows, *low.shape))
    if tensor.datatype.startswith("FP"):
        inside: Array = low + (high - low) * share
        return inside
    drawn = np.clip(np.floor(low + (high - low + 1) * share), low, high)
    kept = real[random.integers(len(real), size=rows)]
    return np.where(random.random(drawn.shape) < SPOILED_SHARE, drawn, kept)


def text_rows(real: Array, rows: int, random: np.random.Generator) -> Array:
    """Edge cases, one text repeated, real texts, and real texts with characters replaced, swapped in case or cut."""
    texts = [text if isinstance(text, bytes) else str(text).encode() for text in real.ravel()]
    drawn = [texts[place] for place in random.integers(len(texts), size=rows)]
    chosen = [text.encode() for text in EDGE_TEXTS] + [drawn[0]] * REPEATS + drawn[: round(REAL_SHARE * rows)]
    chosen += [spoiled(text.decode(), random).encode() for text in drawn[: max(0, rows - len(chosen))]]
    array = np.empty(rows, object)
    array[:] = chosen[:rows]
    return array.reshape(-1, *real.shape[1:]) if real.ndim > 1 else array


def spoiled(text: str, random: np.random.Generator) -> str:
    letters = list(text) or [" "]
    for place in random.integers(len(letters), size=3):
        letters[place] = str(random.choice(list("\u00e9\u00dfZ '\u4e0d9-.")))
    cut = int(random.integers(1, len(letters) + 1))
    return "".join(letters[:cut]).swapcase()
