"""What the exported artifacts answer to a few requests, as data; how it looks is the page's matter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models import export, frameworks
from models.artifacts import Artifact, Store
from models.frameworks import Predictor
from models.probes import as_array
from models.spec import NATIVE, Array, ModelSpec

SHOWN, MADE = 8, 20
LATENT_SEED = 7
IMAGE_SIDES = {28 * 28: 28, 8 * 8: 8}
Predictors = Mapping[str, Predictor]
Sample = dict[str, Any]


def samples(store: Store, spec: ModelSpec, loadable: Iterable[str]) -> list[Sample]:
    """A few held-out rows (or seeded latents) and what version 1 of each `loadable` framework makes of them.

    Each has a `kind`, which says what its other keys are: see the functions below.
    """
    predictors = {framework: load(store, spec, framework) for framework in loadable}
    return kind_of(spec)(spec, predictors) if predictors else []


def load(store: Store, spec: ModelSpec, framework: str) -> Predictor:
    with tempfile.TemporaryDirectory() as folder:
        path = export.framework_file(store, Artifact(spec.name, NATIVE, framework), Path(folder))
        return frameworks.load(framework).load_predictor(path, spec)


def kind_of(spec: ModelSpec) -> Callable[[ModelSpec, Predictors], list[Sample]]:
    if spec.inputs[0].datatype == "INT64" and len(spec.inputs) > 1:
        return written_texts
    if is_image(spec.outputs[0].shape):
        return made_pictures
    if spec.inputs[0].datatype == "BYTES":
        return answered_texts
    if spec.classifies and int(np.prod(spec.inputs[0].shape[1:])) in IMAGE_SIDES:
        return seen_pictures
    return answered_numbers


def is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 3 and int(np.prod(shape[1:])) in IMAGE_SIDES


def rows(spec: ModelSpec) -> tuple[tuple[Array, ...], Array]:
    """The first held-out rows, which no training has seen, and their true answers."""
    held_out = spec.datasets[spec.default_dataset]().held_out.rows(slice(0, SHOWN))
    return held_out.inputs, held_out.targets


def seen_pictures(spec: ModelSpec, predictors: Predictors) -> list[Sample]:
    """`pixels` [height][width] in 0..1, `truth`, and per framework the `answer` and the `scores` of all classes."""
    inputs, targets = rows(spec)
    scores = {framework: probabilities(predict(inputs)[0]) for framework, predict in predictors.items()}
    return [
        {
            "kind": "picture",
            "pixels": rounded(square(inputs[0][row])),
            "truth": label(spec, int(targets[row])),
            "answer": {framework: label(spec, int(of[row].argmax())) for framework, of in scores.items()},
            "scores": {framework: rounded(of[row]) for framework, of in scores.items()},
        }
        for row in range(len(targets))
    ]


def made_pictures(spec: ModelSpec, predictors: Predictors) -> list[Sample]:
    """`framework` and `pixels`: what each makes of the same seeded latents."""
    shape = (MADE, *spec.inputs[0].shape[1:])
    latent = np.random.default_rng(LATENT_SEED).standard_normal(shape).astype(np.float32)
    return [
        {"kind": "made picture", "framework": framework, "pixels": rounded(square(image))}
        for framework, predict in predictors.items()
        for image in predict((latent,))[0]
    ]


def answered_texts(spec: ModelSpec, predictors: Predictors) -> list[Sample]:
    """`text`, `truth`, and per framework the `answer` and its `score`."""
    inputs, targets = rows(spec)
    scores = {framework: probabilities(predict(inputs)[0]) for framework, predict in predictors.items()}
    return [
        {
            "kind": "text",
            "text": text.decode() if isinstance(text, bytes) else str(text),
            "truth": label(spec, int(targets[row])),
            "answer": {framework: label(spec, int(of[row].argmax())) for framework, of in scores.items()},
            "score": {framework: round(float(of[row].max()), 4) for framework, of in scores.items()},
        }
        for row, text in enumerate(inputs[0])
    ]


def answered_numbers(spec: ModelSpec, predictors: Predictors) -> list[Sample]:
    """`inputs`, the true `truth`, and per framework the `answer`."""
    inputs, targets = rows(spec)
    answers = {framework: predict(inputs)[0] for framework, predict in predictors.items()}
    return [
        {
            "kind": "numbers",
            "inputs": rounded(inputs[0][row].ravel()),
            "truth": float(np.ravel(targets[row])[0]),
            "answer": {framework: round(float(np.ravel(of[row])[0]), 4) for framework, of in answers.items()},
        }
        for row in range(len(targets))
    ]


def written_texts(spec: ModelSpec, predictors: Predictors) -> list[Sample]:
    """`framework` and `text`, which begins with the `prompt`."""
    from models import generate

    return [
        {
            "kind": "written text",
            "framework": framework,
            "prompt": generate.PROMPT,
            "text": generate.write(local_step(spec, predict), generate.PROMPT, generate.REPORT_LENGTH),
        }
        for framework, predict in predictors.items()
    ]


def local_step(spec: ModelSpec, predict: Predictor) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """An artifact on disk, asked as the gateway is: nested lists by name in, nested lists by name out."""

    def step(inputs: Mapping[str, Any]) -> dict[str, Any]:
        answers = predict(tuple(as_array(tensor, inputs[tensor.name]) for tensor in spec.inputs))
        return {tensor.name: answer.tolist() for tensor, answer in zip(spec.outputs, answers, strict=True)}

    return step


def square(row: Array) -> Array:
    side = IMAGE_SIDES[row.size]
    return row.reshape(side, side)


def probabilities(scores: Array) -> Array:
    """Of each class; logits go through a softmax."""
    if np.all(scores >= 0) and np.allclose(scores.sum(axis=-1), 1, atol=1e-3):
        return scores
    grown = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    shares: Array = grown / grown.sum(axis=-1, keepdims=True)
    return shares


def label(spec: ModelSpec, place: int) -> str:
    return spec.labels[place] if spec.labels else str(place)


def rounded(array: Array) -> Any:
    return np.round(array.astype(np.float64), 4).tolist()
