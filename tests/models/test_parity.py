"""The proof that both frameworks compute the same, and that it fails when they do not."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models import export, parity
from models.__main__ import main
from models.artifacts import SIGNATURE_IN_ARCHIVE, SIGNATURE_IN_SAVED_MODEL, Artifact, Store
from models.catalog import CATALOG
from models.frameworks import Predictor
from models.frameworks import load as load_framework
from models.probes import EDGE_TEXTS, REPEATS, probes
from models.spec import FRAMEWORKS, ModelSpec

Copied = Callable[[str], Store]
MODEL = "dense_classifier"


def change_pytorch(store: Store, folder: Path, by: float) -> None:
    """Add `by` to one weight of the archive of version 2; its signature stays as it was."""
    import torch

    from models.frameworks.pytorch import torchscript

    artifact = Artifact(MODEL, 2, "pytorch")
    saved = export.framework_file(store, artifact, folder)
    with torchscript(), torch.no_grad():
        module = torch.jit.load(str(saved))
        module.state_dict()["digit.bias"][3] += by
        torch.jit.save(module, str(saved))
    with zipfile.ZipFile(store.path(artifact)) as archive:
        members = {name: archive.read(name) for name in (export.HANDLER, SIGNATURE_IN_ARCHIVE)}
    export.write_archive(store.path(artifact), artifact, {export.MODULE: saved.read_bytes(), **members})


def change_tensorflow(store: Store, folder: Path, by: float) -> None:
    from models.frameworks.tensorflow import quiet_stderr, tf

    path = store.path(Artifact(MODEL, 2, "tensorflow"))
    with quiet_stderr():
        loaded = tf.saved_model.load(str(path))
        bias = loaded.canonical["digit.bias"]
        bias.assign(bias.numpy() + by * np.eye(10, dtype=np.float32)[3])
        tf.saved_model.save(loaded, str(folder / "changed"), signatures=loaded.signatures)
    extra = folder / "changed" / SIGNATURE_IN_SAVED_MODEL
    extra.parent.mkdir()
    shutil.copy(path / SIGNATURE_IN_SAVED_MODEL, extra)
    shutil.rmtree(path)
    (folder / "changed").rename(path)


CHANGES = {"pytorch": change_pytorch, "tensorflow": change_tensorflow}


def test_every_model_passes_as_trained(trained: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "--json", "--out", str(trained.root)]) == 0
    found = {one["model"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == list(CATALOG)
    for one in found.values():
        assert one["rows"] >= 256
        assert one["difference"]["within_tolerance"]
        assert len(set(one["fingerprints"].values())) == 1


def test_the_table_says_equal(copied: Copied, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", MODEL, "--out", str(copied(MODEL).root)]) == 0
    shown = capsys.readouterr()
    assert "equal" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_changed_weight_of_one_artifact_fails(
    copied: Copied, framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures are outside the tolerance, and the weights' fingerprint is neither the stored one nor the twin's."""
    store = copied(MODEL)
    CHANGES[framework](store, tmp_path, 0.1)
    assert main(["parity", MODEL, "--out", str(store.root)]) == 1
    shown = capsys.readouterr()
    assert "fails" in shown.out
    changed, different, outside = shown.err.splitlines()
    assert changed.startswith(f"models: {MODEL} 2 {framework}: its weights have the fingerprint sha256:")
    assert changed.endswith(f"python -m models train {MODEL} --force")
    assert different.startswith(f"models: {MODEL} 2: the twins have different weights (")
    assert outside.startswith(f"models: {MODEL} 2: the twins differ by up to ")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_change_too_small_to_see_in_the_answers_is_seen_in_the_weights(
    copied: Copied, framework: str, tmp_path: Path
) -> None:
    store = copied(MODEL)
    CHANGES[framework](store, tmp_path, 1e-6)
    found = parity.compare(store, CATALOG[MODEL])
    assert found.difference is not None
    assert found.difference.within
    assert len(found.problems) == 2


def test_a_signature_that_was_changed_with_the_weights_still_differs_from_the_twins(
    copied: Copied, tmp_path: Path
) -> None:
    store = copied(MODEL)
    change_pytorch(store, tmp_path, 1e-6)
    artifact = Artifact(MODEL, 2, "pytorch")
    signature = {
        **(store.signature(artifact) or {}),
        "fingerprint": parity.compare(store, CATALOG[MODEL]).fingerprints["pytorch"],
    }
    with zipfile.ZipFile(store.path(artifact)) as archive:
        members = {name: archive.read(name) for name in (export.MODULE, export.HANDLER)}
    members[SIGNATURE_IN_ARCHIVE] = export.as_json(signature)
    export.write_archive(store.path(artifact), artifact, members)
    (problem,) = parity.compare(store, CATALOG[MODEL]).problems
    assert "the twins have different weights" in problem


def test_version_1_is_measured_and_may_differ(copied: Copied, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", MODEL, "--version", "1", "--out", str(copied(MODEL).root)]) == 0
    assert "apart" in capsys.readouterr().out


def test_a_missing_artifact_names_the_command_that_makes_it(copied: Copied, capsys: pytest.CaptureFixture[str]) -> None:
    store = copied(MODEL)
    store.path(Artifact(MODEL, 2, "pytorch")).unlink()
    assert main(["parity", MODEL, "--out", str(store.root)]) == 1
    assert capsys.readouterr().err == (
        f"models: {MODEL} 2 pytorch is not in {store.root}; make it with: python -m models train {MODEL}\n"
    )


def test_a_damaged_artifact_is_one_line_and_the_gate_is_shut(copied: Copied) -> None:
    store = copied(MODEL)
    data = next(store.path(Artifact(MODEL, 2, "tensorflow")).glob("variables/variables.data-*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x40
    data.write_bytes(content)
    with pytest.raises(parity.ParityError, match=rf"^{MODEL} 2 tensorflow cannot be loaded \(.*--force$"):
        parity.require(store, [MODEL])


def test_the_gate_gives_the_figures_when_it_is_open(copied: Copied) -> None:
    (found,) = parity.require(copied(MODEL), [MODEL])
    assert found.difference is not None
    assert found.difference.top1 == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32([1, np.nan]), np.float32([1, 2])),
        (np.float32([np.inf]), np.float32([-np.inf])),
        (np.float32([np.inf]), np.float32([1])),
        (np.float32([1, 2]), np.float32([[1], [2]])),
        (np.float32([1]), np.float64([1])),
        (np.array([b"a"], object), np.array([b"b"], object)),
    ],
    ids=["NaN", "signs of infinity", "infinity", "shape", "type", "text"],
)
def test_what_cannot_be_subtracted_is_infinitely_far_apart(one: parity.Array, other: parity.Array) -> None:
    assert parity.between(one, other)[2] == np.inf


def test_equal_values_that_are_no_numbers_are_equal() -> None:
    values = np.float32([np.nan, np.inf, -np.inf, 0])
    assert parity.between(values, values.copy()) == (0, 0, 0)


def test_the_tolerance_is_that_of_allclose_and_a_part_of_the_rows_greatest_value() -> None:
    rows = np.float64([[0, 1, 1000], [0, 0, 1], [0, 0, 0]])
    allowed = 1e-5 + 1e-4 * rows + 1e-5 * np.float64([[1000], [1], [0]])
    for place in np.ndindex(rows.shape):
        for apart, within in ((0.99, True), (1.01, False), (-1.01, False)):
            moved = rows.copy()
            moved[place] += apart * allowed[place]
            assert (parity.between(moved, rows)[2] <= 1) == within


def test_a_value_of_an_output_of_one_dimension_is_a_row_of_its_own() -> None:
    base = np.float64([0, 1000])
    assert parity.between(base + np.float64([2e-5, 0]), base)[2] == pytest.approx(2)


def test_what_is_left_where_large_parts_cancel_is_no_difference() -> None:
    """A logit of `convnet` as TensorFlow and as float64 have it: its neighbours reach 16."""
    logits = np.float32([[16, 0.002, -9]])
    assert 0 < parity.between(logits + np.float32([[0, 1.6e-5, 0]]), logits)[2] < 0.5
    assert parity.between(logits + np.float32([[0, 3e-4, 0]]), logits)[2] > 1


@pytest.mark.parametrize("name", list(CATALOG))
def test_one_value_off_by_a_thousandth_of_its_row_is_found_among_all(trained: Store, name: str, tmp_path: Path) -> None:
    """In whichever output, of any model, and however small the value was; honest twins stay below a half."""
    spec = CATALOG[name]
    inputs = probes(spec, 256, 0)
    answers = [parity.ask(predictor(trained, framework, spec, tmp_path), inputs) for framework in FRAMEWORKS]
    for one, other in zip(*answers, strict=True):
        assert parity.between(one, other)[2] < 0.5
        for smallest in (np.argmin, np.argmax):
            place = (0, smallest(np.abs(one[0]).reshape(-1)))
            wrong = one.reshape(len(one), -1).copy()
            wrong[place] += max(1e-3 * np.abs(one[0]).max(), 1e-3)
            assert parity.between(wrong.reshape(one.shape), other)[2] > 1


@pytest.mark.parametrize("name", list(CATALOG))
def test_a_hundredth_of_the_last_layers_greatest_weight_is_seen_in_the_answers(
    trained: Store, name: str, tmp_path: Path
) -> None:
    """Without the fingerprints, which see any change: in each model at least twice the tolerance."""
    import torch

    from models.frameworks.pytorch import run, torchscript

    spec = CATALOG[name]
    path = export.framework_file(trained, Artifact(name, 2, "pytorch"), tmp_path)
    with torchscript(), torch.no_grad():
        module = torch.jit.load(str(path)).eval()
        weight = module.state_dict()[spec.weights[-2].name].view(-1)
        weight[weight.abs().argmax()] *= 1.01
    tensorflow = predictor(trained, "tensorflow", spec, tmp_path)
    found = parity.measure(spec, lambda inputs: run(module, inputs), tensorflow, probes(spec, 256, 0))
    assert found.of_tolerance > 2


def predictor(store: Store, framework: str, spec: ModelSpec, folder: Path) -> Predictor:
    path = export.framework_file(store, Artifact(spec.name, 2, framework), folder)
    return load_framework(framework).load_predictor(path, spec)


@pytest.mark.parametrize("name", [name for name in CATALOG if CATALOG[name].inputs[0].datatype == "FP32"])
def test_probes_hold_the_edges_of_the_data_and_repeats(name: str) -> None:
    spec = CATALOG[name]
    for tensor, rows in zip(spec.inputs, probes(spec, 256, 0), strict=True):
        flat = rows.reshape(256, -1)
        assert rows.dtype == np.float32
        assert np.isfinite(rows).all()
        assert (flat == 0).all(axis=1).any(), tensor
        assert (flat == 1).all(axis=1).any(), tensor
        assert max(np.unique(flat, axis=0, return_counts=True)[1]) >= REPEATS
        assert len(np.unique(flat, axis=0)) > 100


def test_probes_depend_on_the_seed_alone() -> None:
    spec = CATALOG["mlp"]
    one, same, other = (probes(spec, 256, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_probes_of_texts_hold_the_empty_the_long_and_other_scripts() -> None:
    (texts,) = probes(CATALOG["text_classifier"], 256, 0)
    assert set(EDGE_TEXTS) <= {text.decode() for text in texts}
    assert max(len(text.decode()) for text in texts) == 10_000
    assert len(texts) == 256
