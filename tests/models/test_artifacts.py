"""What lies on disk after `python -m models train`, loaded as the servers load it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models import export, frameworks, parity, production, weights
from models.artifacts import HANDLER, Artifact, State, Store, expected, size_bytes
from models.catalog import CATALOG
from models.frameworks import Predictor
from models.probes import fits, probes
from models.spec import FRAMEWORKS, ModelSpec
from tests.models.lengths import SHORTENED

ARTIFACTS = expected(CATALOG.values(), FRAMEWORKS)
SPECS = pytest.mark.parametrize("spec", CATALOG.values(), ids=list(CATALOG))
EVERY = pytest.mark.parametrize("artifact", ARTIFACTS, ids=lambda one: f"{one.name}-{one.version}-{one.framework}")


def served(store: Store, artifact: Artifact, folder: Path) -> Predictor:
    path = export.framework_file(store, artifact, folder)
    return frameworks.load(artifact.framework).load_predictor(path, CATALOG[artifact.name])


def test_training_leaves_nothing_missing_and_nothing_half_written(trained: Store) -> None:
    assert trained.missing() == []
    assert sorted(path.name for path in trained.root.iterdir()) == ["pytorch", "tensorflow", "training"]


@EVERY
def test_an_artifact_carries_the_signature_of_the_catalog(trained: Store, artifact: Artifact) -> None:
    """The servers and the gateway read it from there, with the fingerprint of the weights inside."""
    signature = trained.signature(artifact)
    assert signature is not None
    found = weights.fingerprint(production.read_weights(trained, artifact))
    assert signature == CATALOG[artifact.name].signature(artifact.version, found)


@EVERY
def test_an_artifact_answers_any_number_of_rows(trained: Store, artifact: Artifact, tmp_path: Path) -> None:
    """The batch dimension is free, and a row's answer does not depend on the rows beside it."""
    spec = CATALOG[artifact.name]
    predict = served(trained, artifact, tmp_path)
    rows = probes(spec, 40, seed=7)
    together = predict(rows)
    for output, tensor in zip(together, spec.outputs, strict=True):
        assert fits(output, tensor)
        assert len(output) == 40
    alone = predict(tuple(array[:1] for array in rows))
    for one, all_of_them in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, all_of_them[:1], rtol=1e-4, atol=1e-5)
    for place in (1, 17, 39):
        alone = predict(tuple(array[place : place + 1] for array in rows))
        for one, all_of_them in zip(alone, together, strict=True):
            assert parity.between(all_of_them[place : place + 1], one)[2] <= 1


@SPECS
def test_version_2_is_one_function_in_both_frameworks(trained: Store, spec: ModelSpec, tmp_path: Path) -> None:
    """Within the tolerance on 256 rows, through the artifacts on disk."""
    rows = probes(spec, 256, seed=7)
    ours, theirs = (served(trained, Artifact(spec.name, 2, name), tmp_path)(rows) for name in FRAMEWORKS)
    for one, other in zip(ours, theirs, strict=True):
        assert parity.between(one, other)[2] <= 1
    fingerprints = {(trained.signature(Artifact(spec.name, 2, name)) or {})["fingerprint"] for name in FRAMEWORKS}
    assert fingerprints == {(trained.signature(Artifact(spec.name, 1, "pytorch")) or {})["fingerprint"]}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_regression_answers_4_for_5(trained: Store, framework: str, version: int, tmp_path: Path) -> None:
    (answer,) = served(trained, Artifact("linear_regression", version, framework), tmp_path)(
        (np.array([[5]], np.float32),)
    )
    np.testing.assert_allclose(answer, [[4]], atol=0.01)


@SPECS
def test_a_saved_model_runs_in_a_plain_session(trained: Store, spec: ModelSpec, tmp_path: Path) -> None:
    """As TensorFlow Serving runs it: tag `serve`, `serving_default`, tensors fed and fetched by graph name."""
    import tensorflow as tf

    artifact = Artifact(spec.name, 1, "tensorflow")
    rows = probes(spec, 40, seed=7)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(trained.path(artifact)))
        signature = graph.signature_def["serving_default"]
        assert set(signature.inputs) == {tensor.name for tensor in spec.inputs}
        feed = {signature.inputs[tensor.name].name: array for tensor, array in zip(spec.inputs, rows, strict=True)}
        answers = session.run([signature.outputs[tensor.name].name for tensor in spec.outputs], feed)
    for one, other in zip(answers, served(trained, artifact, tmp_path)(rows), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@SPECS
def test_an_archive_holds_what_torchserve_asks_for(trained: Store, spec: ModelSpec) -> None:
    """Names and manifest keys as TorchServe's model archive format has them; the handler is the repository's own."""
    with zipfile.ZipFile(trained.path(Artifact(spec.name, 2, "pytorch"))) as archive:
        assert sorted(archive.namelist()) == ["MAR-INF/MANIFEST.json", "handler.py", "model.pt", "signature.json"]
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert archive.read("handler.py") == HANDLER.read_bytes()
    assert manifest == {
        "runtime": "python",
        "model": {
            "modelName": spec.name,
            "serializedFile": "model.pt",
            "handler": "handler.py",
            "modelVersion": "2",
        },
    }


@EVERY
def test_the_record_tells_how_an_artifact_came_to_be(trained: Store, artifact: Artifact) -> None:
    record = trained.record(artifact) or {}
    spec = CATALOG[artifact.name]
    assert record["artifact_bytes"] == size_bytes(trained.path(artifact)) > 0
    assert record["parameters"] == sum(array.size for array in production.read_weights(trained, artifact).values())
    assert set(record["libraries"]) > {"python", "numpy"}
    assert record["meets_bar"] is spec.measure.meets(record[spec.measure.name], spec.bar)
    if artifact.version == 1:
        assert record["origin"] == "trained"
        assert len(record["loss"]) == SHORTENED.get(spec.name, spec.hyperparameters.epochs)
        if spec.adversary is None:  # else what is lost by one side is won by the other
            assert record["loss"][-1] < record["loss"][0]
        assert record["seconds"] > 0
    else:
        assert record["origin"] == "pytorch version 1"


def test_an_artifact_for_another_signature_is_outdated(copied: Callable[[str], Store]) -> None:
    """A tensor renamed in the catalog must not leave servers with the old name."""
    store = copied("linear_regression")
    artifact = Artifact("linear_regression", 1, "tensorflow")
    path = store.path(artifact) / "assets.extra" / "duet.json"
    path.write_text(path.read_text().replace('"name": "x"', '"name": "z"'))
    assert store.state(artifact) is State.OUTDATED


def test_an_artifact_without_the_record_of_its_weights_is_outdated(copied: Callable[[str], Store]) -> None:
    """That is what a crash between the artifact's rename and its record's leaves behind."""
    store = copied("linear_regression")
    artifact = Artifact("linear_regression", 1, "tensorflow")
    shutil.copy(store.record_path(Artifact("linear_regression", 1, "pytorch")), store.record_path(artifact))
    record = json.loads(store.record_path(artifact).read_text())
    store.record_path(artifact).write_text(json.dumps({**record, "fingerprint": "sha256:other"}))
    assert store.state(artifact) is State.OUTDATED
    store.record_path(artifact).unlink()
    assert store.state(artifact) is State.MISSING


def test_version_2_is_outdated_once_version_1_is_another(copied: Callable[[str], Store]) -> None:
    store = copied("linear_regression")
    source = Artifact("linear_regression", 1, "pytorch")
    store.path(source).unlink()
    assert store.state(Artifact("linear_regression", 2, "tensorflow")) is State.OUTDATED


def test_what_is_no_archive_is_missing(copied: Callable[[str], Store]) -> None:
    store = copied("linear_regression")
    artifact = Artifact("linear_regression", 1, "pytorch")
    store.path(artifact).write_bytes(store.path(artifact).read_bytes()[:1000])
    assert store.state(artifact) is State.MISSING


def test_an_archive_with_another_handler_is_told_from_one_without_weights(copied: Callable[[str], Store]) -> None:
    store = copied("linear_regression")
    newer = Store(store.root, handler=Path(__file__))
    assert newer.state(Artifact("linear_regression", 1, "pytorch")) is State.OLD_HANDLER
    assert newer.state(Artifact("linear_regression", 1, "tensorflow")) is State.READY
