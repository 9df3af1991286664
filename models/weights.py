"""Canonical weights, the currency between the frameworks: name -> float32 array in PyTorch's names and layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from models.spec import Array, ModelSpec, Split, Weight

Weights = dict[str, Array]


class WeightsMismatchError(ValueError):
    """Weights that are not those of the model's spec."""


def initial(spec: ModelSpec, seed: int, data: Split | None = None) -> Weights:
    """The weights that both frameworks start from: Glorot's uniform for kernels (Glorot and Bengio 2010, eq. 16).

    With `data`, the rows to train on, also what the spec takes from these.
    """
    drawn = draw_all(spec.weights, seed)
    return drawn if data is None or spec.from_data is None else drawn | spec.from_data(data)


def draw_all(weights: Iterable[Weight], seed: int) -> Weights:
    random = np.random.default_rng(seed)
    return {weight.name: draw(weight, random) for weight in weights}


def draw(weight: Weight, random: np.random.Generator) -> Array:
    if weight.initial == "zeros":
        return np.zeros(weight.shape, np.float32)
    if weight.initial == "ones":
        return np.ones(weight.shape, np.float32)
    outputs, inputs, *window = weight.shape
    limit = np.sqrt(6 / ((inputs + outputs) * np.prod(window)))
    return random.uniform(-limit, limit, weight.shape).astype(np.float32)


def fingerprint(weights: Mapping[str, Array]) -> str:
    """`sha256:...` over (name, shape, dtype, little-endian bytes) of each array, sorted by name."""
    digest = hashlib.sha256()
    for name, array in sorted(weights.items()):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{name} {list(little.shape)} {little.dtype.str}\n".encode())
        digest.update(little.tobytes())
    return f"sha256:{digest.hexdigest()}"


def check(spec: ModelSpec, weights: Mapping[str, Array]) -> None:
    """Raises WeightsMismatchError unless names and shapes are the spec's."""
    check_all(spec.name, spec.weights, weights)


def check_all(title: str, wanted_weights: Iterable[Weight], weights: Mapping[str, Array]) -> None:
    """`title` says whose weights they are. Raises WeightsMismatchError."""
    wanted = {weight.name: weight.shape for weight in wanted_weights}
    found = {name: array.shape for name, array in weights.items()}
    if found != wanted:
        raise WeightsMismatchError(f"{title} has the weights {wanted}, got {found}")


def count(spec: ModelSpec) -> int:
    return sum(int(np.prod(weight.shape)) for weight in spec.weights)
