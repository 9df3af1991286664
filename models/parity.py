"""Proof that both frameworks serve the same function: exported artifacts, from disk, on the same inputs.

Version 2 must agree within the tolerance. Version 1 is trained in each framework on its own, and is only measured. Of
either version the weights in each artifact must be those that its signature's fingerprint names. `require` is the gate
for whoever is about to compare the frameworks: it raises ParityError unless the twins compute the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models import export, frameworks, weights
from models.artifacts import Artifact, Store
from models.catalog import CATALOG, select
from models.frameworks import Predictor
from models.probes import probes
from models.spec import FRAMEWORKS, TRANSPLANTED, Array, ModelSpec

ROWS, SEED = 256, 0
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-4, 1e-5
ROW_TOLERANCE = 1e-5
"""Of the greatest value of a row of the output, for what cancels (see `between`): 84 times float32's epsilon."""
NOTABLE_SHARE = 1e-3
NAMES_A_CLASS = ("accuracy", "perplexity")
BATCH_SIZES = (1, 2, 61, 192)
"""Other batch sizes may take other kernels, so the rows are asked for in such parts."""


class ParityError(RuntimeError):
    """The twins are not the same function; the text says which, how, and what to do."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Between the twins' outputs, all of them together.

    `relative` is over values of at least a thousandth of the output's greatest. `of_tolerance` is the greatest
    difference as a share of what `between` allows, at most 1 for twins. `top1` is the share of rows with the same most
    likely class, None for a model that names no class.
    """

    absolute: float
    relative: float
    of_tolerance: float
    top1: float | None

    @property
    def within(self) -> bool:
        return self.of_tolerance <= 1


@dataclass(frozen=True, slots=True)
class Parity:
    """Of one model and version. `difference` is None where an artifact cannot be asked; `problems` are sentences."""

    model: str
    version: int
    rows: int
    difference: Difference | None
    fingerprints: dict[str, str]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An artifact as it lies on disk: what it computes, its weights' fingerprint, and the one that it was given."""

    artifact: Artifact
    predict: Predictor
    fingerprint: str
    stored: str


def require(store: Store, names: Iterable[str] = (), version: int = TRANSPLANTED) -> list[Parity]:
    """The gate before a comparison of the frameworks. Raises ParityError, UnknownNameError, NotInstalledError."""
    found = [compare(store, spec, version) for spec in select(names)]
    if problems := [problem for parity in found for problem in parity.problems]:
        raise ParityError("; ".join(problems))
    return found


def compare(store: Store, spec: ModelSpec, version: int = TRANSPLANTED, rows: int = ROWS, seed: int = SEED) -> Parity:
    """Raises NotInstalledError. What is wrong with the artifacts is told in `problems`."""
    loaded: list[Loaded] = []
    problems: list[str] = []
    for framework in FRAMEWORKS:
        try:
            loaded.append(load(store, Artifact(spec.name, version, framework)))
        except ParityError as error:
            problems.append(str(error))
    problems += fingerprint_problems(loaded)
    difference = None
    if len(loaded) == len(FRAMEWORKS):
        one, other = (found.predict for found in loaded)
        difference = measure(spec, one, other, probes(spec, rows, seed))
        if version == TRANSPLANTED and not difference.within:
            problems.append(
                f"{spec.name} {version}: the twins differ by up to {difference.absolute:.3g}, "
                f"{difference.of_tolerance:.3g} times the tolerance"
            )
    prints = {found.artifact.framework: found.fingerprint for found in loaded}
    return Parity(spec.name, version, rows, difference, prints, tuple(problems))


def load(store: Store, artifact: Artifact) -> Loaded:
    """Raises ParityError where there is no whole artifact, NotInstalledError."""
    title = f"{artifact.name} {artifact.version} {artifact.framework}"
    remedy = f"make it with: python -m models train {artifact.name}"
    signature = store.signature(artifact)
    if signature is None:
        raise ParityError(f"{title} is not in {store.root}; {remedy}")
    framework = frameworks.load(artifact.framework)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = export.framework_file(store, artifact, Path(folder))
            predict = framework.load_predictor(path, CATALOG[artifact.name])
            fingerprint = weights.fingerprint(framework.load_weights(path))
        except Exception as error:  # a damaged file: each framework has errors of its own for it
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ParityError(f"{title} cannot be loaded ({reason}); {remedy} --force") from error
    return Loaded(artifact, predict, fingerprint, str(signature.get("fingerprint")))


def fingerprint_problems(loaded: Iterable[Loaded]) -> Iterator[str]:
    """Weights that are not those of the signature, and version 2 of other weights than its twin's."""
    artifacts = list(loaded)
    for one in artifacts:
        if one.fingerprint != one.stored:
            name, version, framework = one.artifact.name, one.artifact.version, one.artifact.framework
            yield (
                f"{name} {version} {framework}: its weights have the fingerprint {short(one.fingerprint)}, its "
                f"signature says {short(one.stored)}: it was changed after training; "
                f"make it anew with: python -m models train {name} --force"
            )
    versions = {one.artifact.version for one in artifacts}
    if versions == {TRANSPLANTED} and len({one.fingerprint for one in artifacts}) > 1:
        name = artifacts[0].artifact.name
        prints = ", ".join(f"{one.artifact.framework} {short(one.fingerprint)}" for one in artifacts)
        yield f"{name} {TRANSPLANTED}: the twins have different weights ({prints})"


def short(fingerprint: str) -> str:
    return fingerprint[: len("sha256:") + 12]


def measure(spec: ModelSpec, one: Predictor, other: Predictor, inputs: tuple[Array, ...]) -> Difference:
    """Of all outputs; `one` is measured against `other`."""
    pairs = list(zip(ask(one, inputs), ask(other, inputs), strict=True))
    absolute, relative, of_tolerance = map(max, zip(*(between(a, b) for a, b in pairs), strict=True))
    top1 = agreement(*pairs[0]) if spec.measure.name in NAMES_A_CLASS else None
    return Difference(absolute, relative, of_tolerance, top1)


def ask(predict: Predictor, inputs: tuple[Array, ...]) -> list[Array]:
    parts = [predict(tuple(array[rows] for array in inputs)) for rows in slices(len(inputs[0]))]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def slices(rows: int) -> Iterator[slice]:
    """
    >>> [part.stop - part.start for part in slices(300)]
    [1, 2, 61, 192, 44]
    """
    start = 0
    for size in (*BATCH_SIZES, *[BATCH_SIZES[-1]] * rows):
        if start >= rows:
            return
        yield slice(start, min(rows, start + size))
        start += size


def between(one: Array, other: Array) -> tuple[float, float, float]:
    """Absolute, relative, and of the tolerance: of 1e-5 + 1e-4 |b| + 1e-5 (greatest |b| of the row).

    Shapes that differ, and NaN in one alone, are infinitely far apart. A row is what has one place in the first
    dimension; in an output of one dimension each value is a row of its own.

    The row counts because a value near zero beside large ones is a sum in which large parts cancel, and float32's error
    is as large as the parts are (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1: by the
    sum of |x_i y_i|, not by |sum of x_i y_i|). Logits of `convnet` reach 16: of 256 real images, one a call,
    TensorFlow's float32 alone is up to 1.15 times (1e-5 + 1e-4 |b|) from the same weights in float64, PyTorch's 0.57;
    both are within 3.2e-6 of the row's greatest. Of all ten models' twins none was further apart than 0.19 of this
    tolerance (`rnn`, at its inputs' edges); a hundredth of the last layer's greatest weight makes 10 and more of it.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return (np.inf, np.inf, np.inf)
    if one.dtype.kind not in "fiu":
        return (0.0, 0.0, 0.0) if np.array_equal(one, other) else (np.inf, np.inf, np.inf)
    a, b = one.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b))
    apart = np.where(np.isnan(apart), np.inf, apart)
    size = np.where(np.isfinite(b), np.abs(b), 0.0)
    notable = (size > 0) & (size >= NOTABLE_SHARE * size.max())
    relative = np.divide(apart, size, out=np.zeros_like(apart), where=notable)
    of_tolerance = apart / (ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * size + ROW_TOLERANCE * greatest_of_rows(size))
    return (float(apart.max()), float(relative.max()), float(of_tolerance.max()))


def greatest_of_rows(size: Array) -> Array:
    """
    >>> greatest_of_rows(np.array([[1, 3], [5, 2]])).tolist()
    [[3], [5]]
    """
    within = tuple(range(1, size.ndim))
    greatest: Array = size.max(axis=within, keepdims=True) if within else size
    return greatest


def agreement(one: Array, other: Array) -> float:
    """Share of rows with the same class: the greatest of the last axis, or one side of 0.5 where it has one value."""

    def classes(scores: Array) -> Array:
        found: Array = scores > 0.5 if scores.shape[-1] == 1 else scores.argmax(axis=-1)
        return found

    return float(np.mean(classes(one) == classes(other)))


def as_json(parity: Parity) -> dict[str, Any]:
    difference = parity.difference
    figures = (
        None
        if difference is None
        else {
            "max_absolute": difference.absolute,
            "max_relative": difference.relative,
            "of_tolerance": difference.of_tolerance,
            "within_tolerance": difference.within,
            "top1_agreement": difference.top1,
        }
    )
    return {
        "model": parity.model,
        "version": parity.version,
        "rows": parity.rows,
        "difference": figures,
        "fingerprints": parity.fingerprints,
        "problems": list(parity.problems),
    }
