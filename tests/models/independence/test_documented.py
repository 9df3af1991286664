"""The documented models: what their specs declare of rows holds, and an import of their artifacts concludes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import export, frameworks
from models.__main__ import main
from models.artifacts import Artifact, Store, expected
from models.catalog import CATALOG
from models.importing import examples
from models.importing.candidate import Answer
from models.importing.independence.trial import refute
from models.probes import real_inputs
from models.spec import FRAMEWORKS, NATIVE, Array, ModelSpec

ARTIFACTS = expected(CATALOG.values(), FRAMEWORKS)
EVERY = pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda one: f"{one.name}-{one.version}-{one.framework}")
AT_LEAST = 16


@EVERY
@pytest.mark.full
def test_a_documented_models_rows_are_independent_as_its_spec_says(
    trained: Store, artifact: Artifact, tmp_path: Path
) -> None:
    """Random, special and real rows, alone and joined at every place: once from zeros, once from the real data."""
    spec = CATALOG[artifact.name]
    path = export.framework_file(trained, artifact, tmp_path)
    predict = frameworks.load(artifact.framework).load_predictor(path, spec)

    def asked(arrays: tuple[Array, ...]) -> list[Answer]:
        outputs = zip(spec.outputs, predict(arrays), strict=True)
        return [Answer(tensor.datatype, values) for tensor, values in outputs]

    assert spec.rows == "independent"
    names = [tensor.name for tensor in spec.outputs]
    for one in (examples.rows(spec.inputs, {}, ""), tuple(array[:1] for array in real_inputs(spec))):
        assert refute(asked, spec.inputs, names, one) is None


def flags(spec: ModelSpec) -> list[str]:
    inputs = [f"{tensor.name}:{tensor.datatype}:{','.join(map(str, tensor.shape))}" for tensor in spec.inputs]
    names = [part for tensor in spec.outputs for part in ("--output", tensor.name)]
    return [part for one in inputs for part in ("--input", one)] + names


def imported(trained: Store, spec: ModelSpec, framework: str, folder: Path) -> dict[str, Any]:
    """What the artifact's own signature says after an import with every default in place."""
    path = export.framework_file(trained, Artifact(spec.name, NATIVE, framework), folder)
    own = flags(spec) if framework == "pytorch" else []
    store = Store(folder / "artifacts")
    assert main(["import", str(path), "--name", f"own_{spec.name}", *own, "--out", str(store.root)]) == 0
    version = 1 if framework == "pytorch" else NATIVE
    return store.signature(Artifact(f"own_{spec.name}", version, framework)) or {}


@pytest.mark.full
def test_an_import_of_a_documented_model_concludes_that_its_rows_are_independent(
    trained: Store, tmp_path: Path, record_property: Any
) -> None:
    """At least 16 of the 20, so that the analysis is of use; and of none that they are dependent."""
    found = {}
    for spec in CATALOG.values():
        for framework in FRAMEWORKS:
            folder = tmp_path / f"{spec.name}-{framework}"
            folder.mkdir()
            signature = imported(trained, spec, framework, folder)
            found[spec.name, framework] = signature["rows"], signature["rows_reason"]
    for (name, framework), (rows, reason) in found.items():
        print(f"{name:22}{framework:12}{rows:12} {reason}")
    words = [rows for rows, _ in found.values()]
    record_property("independent", words.count("independent"))
    assert words.count("independent") >= AT_LEAST
    assert "dependent" not in words
