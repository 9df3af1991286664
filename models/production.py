"""Carries out the steps of a plan: trains, exports, tries the export, publishes, records."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models import export, frameworks, training, weights
from models.artifacts import Artifact, Store, size_bytes
from models.catalog import CATALOG
from models.plan import Options, Step, settings
from models.spec import NATIVE, Dataset, ModelSpec
from models.training import Course, Settings
from models.weights import Weights

OnEpoch = Callable[[float], None]
Record = dict[str, Any]


class BrokenExportError(RuntimeError):
    """The exported artifact does not hold the weights that went into it."""


def run(store: Store, step: Step, options: Options, on_epoch: OnEpoch) -> Record | None:
    """One step; the record of what it made, None for a repack. Raises OSError, DatasetUnavailableError."""
    if step.action == "train":
        return train(store, step.artifact, settings(CATALOG[step.artifact.name], options), on_epoch)
    if step.action == "transplant":
        return transplant(store, step.artifact)
    with export.staging(store.root) as folder:
        export.repack(store, step.artifact, folder)
    return None


def train(store: Store, artifact: Artifact, chosen: Settings, on_epoch: OnEpoch) -> Record:
    spec = CATALOG[artifact.name]
    framework = frameworks.load(artifact.framework)
    data = spec.data(chosen.dataset)
    initial = weights.initial(spec, chosen.seed, data.train)
    twin = framework.twin(spec, initial)
    course = training.fit(twin, spec, data.train, chosen, on_epoch)
    origin = {"origin": "trained", "initial_fingerprint": weights.fingerprint(initial), **history(course, chosen)}
    return deliver(store, artifact, twin, data, {**origin, **asdict(chosen)})


def transplant(store: Store, artifact: Artifact) -> Record:
    """Version 2: PyTorch's version 1, read back from its archive, in this framework's twin."""
    spec = CATALOG[artifact.name]
    source = Artifact(spec.name, NATIVE, "pytorch")
    chosen = {key: (store.record(source) or {})[key] for key in ("dataset", "epochs", "seed")}
    twin = frameworks.load(artifact.framework).twin(spec, read_weights(store, source))
    data = spec.data(chosen["dataset"])
    return deliver(store, artifact, twin, data, {"origin": "pytorch version 1", **chosen})


def read_weights(store: Store, artifact: Artifact) -> Weights:
    """The canonical weights of an artifact on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = export.framework_file(store, artifact, Path(folder))
        return frameworks.load(artifact.framework).load_weights(path)


def deliver(store: Store, artifact: Artifact, twin: frameworks.Twin, data: Dataset, facts: Record) -> Record:
    """Save, load what was saved as a server would, measure it on the held-out rows, and only then publish it."""
    spec = CATALOG[artifact.name]
    framework = frameworks.load(artifact.framework)
    fingerprint = weights.fingerprint(twin.weights())
    with export.staging(store.root) as folder:
        saved = folder / export.MODULE
        twin.save(saved)
        if weights.fingerprint(framework.load_weights(saved)) != fingerprint:
            raise BrokenExportError(f"{artifact.framework} saved other weights of {spec.name} than it was given")
        measured = training.measure(framework.load_predictor(saved, spec), spec, data)
        staged = export.finish(store, artifact, saved, spec.signature(artifact.version, fingerprint))
        record = {
            **asdict(artifact),
            **facts,
            "fingerprint": fingerprint,
            **held_out(spec, data, measured),
            "artifact": store.path(artifact).relative_to(store.root).as_posix(),
            "artifact_bytes": size_bytes(staged),
            "libraries": {"python": platform.python_version(), "numpy": np.__version__, **framework.libraries()},
        }
        export.publish(store, artifact, staged, record)
    return record


def history(course: Course, chosen: Settings) -> Record:
    seconds_per_epoch = course.seconds / chosen.epochs
    return {"loss": course.loss, "seconds": course.seconds, "seconds_per_epoch": seconds_per_epoch}


def held_out(spec: ModelSpec, data: Dataset, measured: float) -> Record:
    return {
        "parameters": weights.count(spec),
        "hyperparameters": asdict(spec.hyperparameters),
        "rows": {"train": len(data.train), "held_out": len(data.held_out)},
        "measure": spec.measure.name,
        spec.measure.name: measured,
        "bar": spec.bar,
        "meets_bar": spec.measure.meets(measured, spec.bar),
    }
