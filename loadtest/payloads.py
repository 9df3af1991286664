"""Inputs for load and for parity, by seed: real rows of the model's data, and the edges of what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.types import Array, Tensor
from loadtest.failures import LoadFailed
from loadtest.fronts import FRONTS, Signature
from models import probes
from models.catalog import CATALOG
from models.served import Served, served
from models.spec import FRAMEWORKS, TensorSpec, UnknownNameError

PAYLOADS = 32
"""Different requests of one block: enough that no cache of one answer helps, few enough to be written before."""


def twin(root: Path, name: str) -> Served:
    """A model with both variants. Raises LoadFailed for one that there is not, and for one with one variant alone."""
    try:
        (model,) = served(root, [name])
    except UnknownNameError as error:
        raise LoadFailed(str(error)) from None
    if set(model.variants) != set(FRAMEWORKS):
        raise LoadFailed(
            f"{name} has no twin: it is there in {', '.join(model.variants)} alone; bring the other one with "
            "python -m models import"
        )
    return model


def common_version(model: Served) -> int:
    """The highest version that both variants have. Raises LoadFailed."""
    both = set.intersection(*(set(versions) for versions in model.versions.values()))
    if not both:
        raise LoadFailed(f"{model.name} has no version in both frameworks; import one with the same --version")
    return max(both)


def rows(model: Served, count: int, seed: int = 0, *, edges: bool = False) -> list[Array]:
    """``count`` rows of each input, in the signature's order; ``edges`` asks for those of parity, edge cases first."""
    if model.is_imported:
        return imported_rows(model, count, seed)
    spec = CATALOG[model.name]
    if edges:
        return list(probes.probes(spec, count, seed))
    chosen = np.random.default_rng(seed)
    return [
        probes.as_array(tensor, real[chosen.integers(len(real), size=count)])
        for tensor, real in zip(spec.inputs, probes.real_inputs(spec), strict=True)
    ]


def imported_rows(model: Served, count: int, seed: int) -> list[Array]:
    """The request that the import has tried, with noise of a hundredth of its numbers' spread in all rows but one."""
    if model.example is None:
        raise LoadFailed(f"{model.name} was imported without an example; import it again with --example FILE")
    chosen = np.random.default_rng(seed)
    return [_varied(probes.as_array(tensor, model.example[tensor.name]), count, chosen) for tensor in model.inputs]


def _varied(example: Array, count: int, chosen: np.random.Generator) -> Array:
    repeated = np.repeat(example[:1], count, axis=0)
    if repeated.dtype.kind != "f":
        return repeated
    noise = chosen.normal(scale=0.01 * (float(np.std(example)) or 1.0), size=repeated.shape)
    noise[0] = 0
    varied: Array = (repeated + noise).astype(repeated.dtype)
    return varied


def requests(inputs: Sequence[TensorSpec], arrays: Sequence[Array], batch: int = 1) -> list[tuple[Tensor, ...]]:
    """The rows as requests of ``batch`` rows each; what is left over is dropped."""
    count = len(arrays[0]) // batch
    return [
        tuple(
            Tensor(spec.name, spec.datatype, array[batch * place : batch * (place + 1)])
            for spec, array in zip(inputs, arrays, strict=True)
        )
        for place in range(count)
    ]


def example_inputs(model: str, batch: int = 1) -> tuple[Tensor, ...]:
    """The catalog's example of a model, ``batch`` times over."""
    spec = CATALOG[model]
    values: dict[str, Any] = spec.example().inputs
    return tuple(
        Tensor(one.name, one.datatype, np.repeat(probes.as_array(one, values[one.name]), batch, axis=0))
        for one in spec.inputs
    )


def json_body(model: str, rows: int = 1) -> bytes:
    """The Open Inference Protocol's JSON request with ``rows`` copies of the model's example in one batch."""
    spec = CATALOG[model]
    return (
        FRONTS["v2_rest_json"]
        .encode(Signature(model, max(spec.versions), spec.outputs), example_inputs(model, rows))
        .body
    )
