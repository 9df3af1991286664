"""`python -m models import` of a TorchServe archive and of a TF Lite file, and examples whose values are bytes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.__main__ import main
from models.artifacts import Artifact, Store
from models.importing import examples
from models.importing.request import ImportRefusedError
from models.served import imported
from models.spec import TensorSpec
from serving.embedded.tflite import LiteModel

Import = Callable[..., tuple[int, str, str]]
HANDLER = """
class Echo:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return [{"keys": sorted(row)} for row in data]
"""
#: Not UTF-8: what is read as text and written again would be harmed.
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["import", *map(str, arguments), "--out", "artifacts"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def archive(folder: Path, name: str = "echo", version: str = "2.0", *more: str) -> Path:
    """As torch-model-archiver makes it."""
    handler = folder / "own.py"
    handler.write_text(HANDLER)
    archiver = Path(sys.executable).with_name("torch-model-archiver")
    options = ["--model-name", name, "--version", version, "--handler", str(handler), "--export-path", str(folder)]
    subprocess.run([archiver, *options, *more], check=True, capture_output=True, timeout=60)
    return folder / f"{name}.mar"


def test_an_archive_with_its_own_handler_is_published_whole_and_served_as_opaque(bring: Import, tmp_path: Path) -> None:
    """Name and version are the manifest's or the flags'; every other member is untouched; the example is kept."""
    source = archive(tmp_path)
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(JPEG)
    code, shown, complaint = bring(source, "--name", "mine", "--version", "3", "--example", picture)
    assert code == 0, complaint
    assert "opaque" in shown
    store = Store(tmp_path / "artifacts")
    with zipfile.ZipFile(store.path(Artifact("mine", 3, "pytorch"))) as copy, zipfile.ZipFile(source) as original:
        assert copy.read("own.py") == original.read("own.py")
        manifest = json.loads(copy.read("MAR-INF/MANIFEST.json"))
        assert (manifest["model"]["modelName"], manifest["model"]["modelVersion"]) == ("mine", "3")
        assert manifest["model"]["handler"] == "own.py"
    (found,) = imported(store.root)
    assert (found.name, found.opaque, found.versions) == ("mine", True, {"pytorch": (3,)})
    assert found.payload is not None
    assert found.payload.read() == JPEG
    assert bring(source)[0] == 0
    assert {model.name: model.versions["pytorch"] for model in imported(store.root)} == {"echo": (2,), "mine": (3,)}


def broken(tmp_path: Path, kind: str) -> tuple[Path, list[str]]:
    source = archive(tmp_path, version="2.5" if kind == "version" else "2.0")
    if kind == "no zip":
        source.write_bytes(b"not an archive")
    elif kind in ("no handler file", "no manifest"):
        with zipfile.ZipFile(source) as whole:
            kept = {name: whole.read(name) for name in whole.namelist()}
        del kept["own.py" if kind == "no handler file" else "MAR-INF/MANIFEST.json"]
        with zipfile.ZipFile(source, "w") as less:
            for name, content in kept.items():
                less.writestr(name, content)
    return source, ["--input", "x:FP32:-1"] if kind == "flags" else []


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no zip", "is no TorchServe archive"),
        ("no manifest", "is no TorchServe archive"),
        ("no handler file", "does not hold its handler own.py"),
        ("version", "give one with --version N"),
        ("flags", "--input: an archive's own handler has no tensors"),
    ],
)
def test_an_archive_that_torchserve_could_not_load_is_one_line_and_changes_nothing(
    bring: Import, tmp_path: Path, kind: str, sentence: str
) -> None:
    source, flags = broken(tmp_path, kind)
    code, _, complaint = bring(source, *flags)
    assert code == 1
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert not list((tmp_path / "artifacts").rglob("*.mar"))


def test_an_opaque_model_has_no_twin(bring: Import, tmp_path: Path) -> None:
    """Its clients send bodies, a twin's send tensors: no client could be moved between them."""
    assert bring(archive(tmp_path))[0] == 0
    code, _, complaint = bring(lite_file(tmp_path), "--name", "echo", "--version", "2")
    assert code == 1
    assert "archive with a handler of its own" in complaint


def lite_file(folder: Path) -> Path:
    """One function of two named inputs and outputs, its first dimension free."""
    from models.frameworks.tensorflow import quiet_stderr, tf

    class Two(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, 2], tf.float32, "x"), tf.TensorSpec([None, 2], tf.float32, "w")]
        )
        def two(self, x: tf.Tensor, w: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"a": x * 2, "b": x + w}

    saved = folder / "saved"
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter warns of what it will not be any more
        module = Two()
        tf.saved_model.save(module, str(saved), signatures={"serving_default": module.two})
        content = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
    path = folder / "two.tflite"
    path.write_bytes(content)
    return path


def test_a_tflite_file_is_served_by_its_own_names_with_its_rows_free(bring: Import, tmp_path: Path) -> None:
    """The converter's names (`serving_default_x:0`) and its one fixed row are not what clients are to see."""
    code, shown, complaint = bring(lite_file(tmp_path))
    assert code == 0, complaint
    assert "x FP32 [-1, 2]" in shown
    store = Store(tmp_path / "artifacts")
    (found,) = imported(store.root)
    assert [spec.name for spec in (*found.inputs, *found.outputs)] == ["w", "x", "a", "b"]
    model = LiteModel(store.path(Artifact("two", 1, "tensorflow")) / "model.tflite", pool=1, threads=1)
    signature = model.signatures["serving_default"]
    x, w = np.float32([[1, 2], [3, 4], [5, 6]]), np.ones((3, 2), np.float32)
    a, b = model.run(
        [signature.inputs["x"].name, signature.inputs["w"].name],
        [x, w],
        [signature.outputs["a"].name, signature.outputs["b"].name],
    )
    np.testing.assert_array_equal(a, x * 2)
    np.testing.assert_array_equal(b, x + 1)


@pytest.mark.parametrize("content", [b"", b"TFL3 but no model"])
def test_a_file_that_is_no_tflite_is_one_line(bring: Import, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    code, _, complaint = bring(path)
    assert code == 1
    assert "TF Lite cannot load" in complaint
    assert complaint.count("\n") == 1


def example(folder: Path, form: str) -> Path:
    """The same two elements of bytes, in each form in which a user may have them."""
    encoded = base64.b64encode(JPEG).decode()
    texts = {
        "rows": {"image": [[{"b64": encoded}], ["text"]]},
        "request": {
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": ["text", "text"]}],
        },
    }
    path = folder / "example.json"
    path.write_text(json.dumps(texts[form]))
    return path


def test_examples_of_bytes_are_read_and_kept_unharmed(tmp_path: Path) -> None:
    """The kind: an element of BYTES is any bytes. As `b64` in JSON, a whole file, a .npz; text stays text."""
    spec = TensorSpec("image", "BYTES", (-1, 1))
    given = examples.read(example(tmp_path, "rows"))
    (one,) = examples.rows([spec], given, "example")
    assert one.tolist() == [[JPEG]]
    assert examples.as_lists([spec], (one,)) == {"image": [[{"b64": base64.b64encode(JPEG).decode()}]]}
    (of_request,) = examples.rows([spec], examples.read(example(tmp_path, "request")), "example")
    assert examples.as_lists([spec], (of_request,)) == {"image": [["text"]]}
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(JPEG)
    (scalar,) = examples.rows([TensorSpec("image", "BYTES", ())], examples.read(picture), "picture")
    assert scalar.item() == JPEG
    np.savez(tmp_path / "packed.npz", image=np.array([[JPEG]]))
    (packed,) = examples.rows([spec], examples.read(tmp_path / "packed.npz"), "packed")
    assert packed.item() == JPEG.rstrip(b"\x00")  # numpy's own type for bytes drops zeros at the end


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"b64": "@@@"}, "is not base64"),
        ({"b64": 7}, 'must be {"b64": "..."}'),
        ({"b64": "aGk=", "more": 1}, 'must be {"b64": "..."}'),
        ({"image_bytes": "aGk="}, 'must be {"b64": "..."}'),
    ],
)
def test_bad_base64_names_the_input(tmp_path: Path, value: object, sentence: str) -> None:
    path = tmp_path / "example.json"
    path.write_text(json.dumps({"image": [value]}))
    with pytest.raises(ImportRefusedError, match="image") as caught:
        examples.read(path)
    assert sentence in str(caught.value)
