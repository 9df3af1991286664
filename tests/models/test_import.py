"""`python -m models import`: models that Duet has not made, made here with the frameworks' own means."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.__main__ import main
from models.artifacts import Artifact, Store
from models.catalog import CATALOG
from models.served import imported, served
from models.spec import FRAMEWORKS, TensorSpec, UnknownNameError

Import = Callable[..., tuple[int, str, str]]
MODULE = """
import torch
from torch import nn

class Scored(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 3)

    def forward(self, x, mask):
        return self.dense(x) * mask, x.sum(1)

class NotForScript(nn.Module):
    def forward(self, x):
        return {**{"a": x}}["a"] * 2

class OfOneRow(nn.Module):
    def forward(self, x):
        return {**{"a": x + [*range(x.shape[0])][-1]}}["a"]

class Texts(nn.Module):
    def forward(self, text: list[str]):
        return torch.tensor([len(one) for one in text])

class Numbered(nn.Module):
    def forward(self, x):
        return x, x.size(0)

class Scaled(nn.Module):
    def forward(self, x, factor: float):
        return x * factor

class Drops(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)

def nothing():
    return 7
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nets(workplace: Path) -> str:
    name = f"nets_{workplace.name}".replace("-", "_")
    (workplace / f"{name}.py").write_text(MODULE)
    return name


@pytest.fixture
def bring(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["import", *map(str, arguments), "--out", "artifacts"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def scripted(path: Path, nets: str, name: str = "Scored") -> Path:
    import importlib
    import sys

    import torch

    from models.frameworks.pytorch import torchscript

    sys.path.insert(0, str(path.parent))
    try:
        module = getattr(importlib.import_module(nets), name)().eval()
    finally:
        sys.path.pop(0)
    with torchscript():
        torch.jit.save(torch.jit.script(module), str(path))
    return path


def text_model(path: Path) -> Path:
    """A SavedModel with a table, several outputs, and a second signature whose input has no known rank."""
    from models.frameworks.tensorflow import quiet_stderr, tf

    class Texts(tf.Module):
        def __init__(self) -> None:
            keys = tf.lookup.KeyValueTensorInitializer(["good", "bad"], [1, -1], tf.string, tf.int64)
            self.table = tf.lookup.StaticHashTable(keys, 0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def judge(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"side": self.table.lookup(text), "upper": tf.strings.upper(text)}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
        def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": 2 * x}

    module = Texts()
    signatures = {
        "serving_default": module.judge.get_concrete_function(),
        "double": module.double.get_concrete_function(),
    }
    with quiet_stderr():
        tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def serve(path: Path, **inputs: object) -> dict[str, np.ndarray]:
    """As TensorFlow Serving does: by the tag and the default signature."""
    from models.frameworks.tensorflow import quiet_stderr, tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        with quiet_stderr():
            loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        signature = loaded.signature_def["serving_default"]
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: info.name for name, info in signature.outputs.items()}, feeds)


def test_a_torchscript_file_is_packed_as_torchserve_takes_it(bring: Import, workplace: Path, nets: str) -> None:
    scripted(workplace / "scores.pt", nets)
    flags = ["--input", "x:FP32:-1,4", "--input", "mask:FP32:-1,1", "--output", "scores", "--output", "sum"]
    code, said, complaint = bring("scores.pt", *flags, "--description", "four numbers to three")
    assert (code, complaint) == (0, "")
    assert "scores version 1 (pytorch)" in said
    with zipfile.ZipFile("artifacts/pytorch/scores-1.mar") as archive:
        assert archive.read("model.pt") == (workplace / "scores.pt").read_bytes()
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        signature = json.loads(archive.read("signature.json"))
    assert manifest["model"]["modelName"] == "scores"
    assert signature["description"] == "four numbers to three"
    assert signature["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "sum", "datatype": "FP32", "shape": [-1]},
    ]


def test_a_torchscript_file_alone_is_asked_about_with_the_flags_to_give(
    bring: Import, workplace: Path, nets: str
) -> None:
    scripted(workplace / "scores.pt", nets)
    code, _, complaint = bring("scores.pt")
    assert code == 1
    assert complaint == (
        "models: scores.pt does not tell datatypes and shapes; its forward takes (x: Tensor, mask: Tensor). Give, in "
        "this order: --input x:DATATYPE:SHAPE --input mask:DATATYPE:SHAPE (as in --input x:FP32:-1,3,224,224, where -1 "
        "is free), or --example FILE\n"
    )
    assert list(Path("artifacts").glob("*")) == []


def test_an_example_tells_names_datatypes_and_shapes(bring: Import, workplace: Path, nets: str) -> None:
    scripted(workplace / "scores.pt", nets)
    Path("rows.json").write_text(json.dumps({"mask": [[1.0]], "x": [[1.0, 2.0, 3.0, 4.5]]}))
    assert bring("scores.pt", "--example", "rows.json")[0] == 0
    (model,) = imported(Path("artifacts"))
    assert model.inputs == (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("mask", "FP32", (-1, 1)))
    assert model.example == {"x": [[1.0, 2.0, 3.0, 4.5]], "mask": [[1.0]]}


def test_a_module_is_compiled_with_its_weights(bring: Import, workplace: Path, nets: str) -> None:
    import torch

    torch.save({"dense.weight": torch.eye(4)[:3], "dense.bias": torch.zeros(3)}, "weights.pt")
    np.savez("rows.npz", x=np.float32([[1, 2, 3, 4]]), mask=np.float32([[1]]))
    code, _, complaint = bring(f"{nets}:Scored", "--weights", "weights.pt", "--name", "own", "--example", "rows.npz")
    assert (code, complaint) == (0, "")
    from models import export
    from models.frameworks.pytorch import torchscript

    with torchscript():
        module = torch.jit.load(str(export.framework_file(Store(), Artifact("own", 1, "pytorch"), workplace)))
    assert module(torch.tensor([[1.0, 2, 3, 4]]), torch.ones(1, 1))[0].tolist() == [[1, 2, 3]]


def test_a_module_that_cannot_be_compiled_is_traced_and_says_so(bring: Import, nets: str) -> None:
    code, said, _ = bring(f"{nets}:NotForScript", "--input", "x:FP32:-1,2")
    assert code == 0
    assert "note: traced" in said


def test_a_trace_that_holds_for_one_number_of_rows_alone_is_refused(bring: Import, nets: str) -> None:
    code, _, complaint = bring(f"{nets}:OfOneRow", "--input", "x:FP32:-1,2")
    assert code == 1
    assert "traced, it answers otherwise than as Python" in complaint


def test_texts_go_to_torchscript_as_a_list(bring: Import, workplace: Path, nets: str) -> None:
    scripted(workplace / "lengths.pt", nets, "Texts")
    code, _, complaint = bring("lengths.pt")
    assert "Give, in this order: --input text:BYTES:-1" in complaint
    assert code == 1
    assert bring("lengths.pt", "--input", "text:BYTES:-1", "--output", "length")[0] == 0
    assert imported(Path("artifacts"))[0].outputs == (TensorSpec("length", "INT64", (-1,)),)


def test_chance_in_a_model_is_noticed(bring: Import, nets: str) -> None:
    Path("rows.json").write_text(json.dumps({"x": [[float(n) for n in range(1, 65)]]}))
    code, said, _ = bring(f"{nets}:Drops", "--example", "rows.json")
    assert code == 0
    assert "note: output output of a row depends on the rows beside it, or on chance" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{nets}:Numbered", "--input", "x:FP32:-1,2"], "it returns int as result[1]; to be served its result must be"),
        (["{nets}:Scaled", "--input", "x:FP32:-1,2"], "its forward takes factor: float, which is no tensor"),
        (["{nets}:nothing"], "gives a int, not a torch.nn.Module"),
        (["{nets}:Missing"], "has no attribute 'Missing'"),
        (["no_such_module:Net"], "ModuleNotFoundError"),
        (["{nets}:Scored", "--input", "x:FP32:-1,5", "--input", "mask:FP32:-1,1"], "give --example FILE"),
        (["{nets}:Scored", "--input", "x:FP32:-1,4"], "its forward takes (x: Tensor, mask: Tensor); given are x"),
        (["{nets}:Scored", "--weights", "none.pt"], "--weights none.pt: there is no such file"),
        (["nowhere.pt"], "there is no nowhere.pt; give a file, a folder, or PACKAGE.MODULE:FACTORY"),
        (["{nets}.py"], "is neither a SavedModel's folder, nor a .keras, .tflite or TorchScript file"),
        (["."], "holds no saved_model.pb: give a SavedModel's folder"),
        (["{nets}:Scored", "--name", "convnet"], "convnet is a documented model; give yours another name"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_served_is_one_line_and_changes_nothing(
    bring: Import, nets: str, arguments: list[str], sentence: str
) -> None:
    code, _, complaint = bring(*(argument.format(nets=nets) for argument in arguments))
    assert code == 1
    assert complaint.startswith("models: ")
    assert complaint.count("\n") == 1
    assert sentence in complaint
    assert list(Path("artifacts").glob("*")) == []


def test_weights_without_their_module_say_what_to_give(bring: Import, workplace: Path) -> None:
    import torch

    torch.save({"dense.weight": torch.ones(1, 1)}, "weights.pt")
    code, _, complaint = bring("weights.pt")
    assert code == 1
    assert complaint.endswith("python -m models import PACKAGE.MODULE:FACTORY --weights weights.pt\n")


def test_a_savedmodel_needs_no_flag_and_keeps_its_tables(bring: Import, workplace: Path) -> None:
    text_model(workplace / "judge" / "4")
    code, _, complaint = bring("judge")
    assert code == 1
    assert complaint.endswith("did you mean judge/4?\n")
    assert bring("judge/4")[0] == 0
    (model,) = imported(Path("artifacts"))
    assert (model.name, model.versions) == ("judge", {"tensorflow": (4,)})
    assert model.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert model.outputs == (TensorSpec("side", "INT64", (-1,)), TensorSpec("upper", "BYTES", (-1,)))
    answer = serve(Path("artifacts/tensorflow/judge/4"), text=["good", "odd"])
    assert answer["side"].tolist() == [1, 0]


def test_another_signature_becomes_the_one_that_is_served(bring: Import, workplace: Path) -> None:
    text_model(workplace / "judge")
    before = (workplace / "judge" / "saved_model.pb").read_bytes()
    code, _, complaint = bring("judge", "--signature", "triple")
    assert complaint == (
        "models: the SavedModel has no signature 'triple': there are double, serving_default; give one with "
        "--signature NAME\n"
    )
    code, _, complaint = bring("judge", "--signature", "double", "--name", "double")
    assert complaint == ("models: input x has no known shape; give --input x:FP32:SHAPE (as in -1,3,224,224)\n")
    code, _, complaint = bring("judge", "--signature", "double", "--name", "double", "--input", "x:FP32:-1,2")
    assert (code, complaint) == (0, "")
    assert serve(Path("artifacts/tensorflow/double/1"), x=[[1, 2]])["y"].tolist() == [[2, 4]]
    assert (workplace / "judge" / "saved_model.pb").read_bytes() == before


def test_a_savedmodel_tells_its_free_sizes_itself(bring: Import, workplace: Path) -> None:
    """The kind of tests/models/test_import_sizes.py: what its graph leaves open stays so, whatever the import saw.

    A sequence's length, a choice by values, a size in the middle, and a rank that is not known: that stays unknown.
    """
    from models.frameworks.tensorflow import quiet_stderr, tf

    class Sizes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, 2], tf.float32, "x")])
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            reshaped = tf.reshape(x, tf.concat([tf.shape(x)[:1], [-1]], 0))
            rank = tf.cond(tf.reduce_any(x > 1e9), lambda: x, lambda: tf.reduce_sum(x, 1))
            chosen = tf.boolean_mask(x, x[..., 0] > 0.5)
            return {"same": x * 2, "flat": reshaped, "chosen": chosen, "rank": rank, "last": x[:, -1]}

    module = Sizes()
    with quiet_stderr():
        tf.saved_model.save(module, "sizes", signatures=module.serve.get_concrete_function())
    assert bring("sizes")[0] == 0
    (model,) = imported(Path("artifacts"))
    assert {spec.name: spec.shape for spec in model.outputs} == {
        "same": (-1, -1, 2),
        "flat": (-1, -1),
        "chosen": (-1, 2),
        "rank": (-1, -1),
        "last": (-1, 2),
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session, quiet_stderr():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], "artifacts/tensorflow/sizes/1")
    assert loaded.signature_def["serving_default"].outputs["rank"].tensor_shape.unknown_rank


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # Keras's own
def test_a_keras_file_is_exported_with_names(bring: Import, workplace: Path) -> None:
    from models.frameworks.tensorflow import keras, quiet_stderr

    with quiet_stderr():
        words = keras.layers.TextVectorization(vocabulary=["good", "bad"], output_sequence_length=3)
        mean = keras.layers.GlobalAveragePooling1D()
        model = keras.Sequential([keras.Input((), dtype="string"), words, keras.layers.Embedding(9, 5), mean])
        model.save("words.keras")
        expected = model.predict(np.array(["good bad", "x"], object), verbose=0)
    assert bring("words.keras", "--input", "text:BYTES:-1", "--output", "meaning")[0] == 0
    answer = serve(Path("artifacts/tensorflow/words/1"), text=["good bad", "x"])
    np.testing.assert_allclose(answer["meaning"], expected, rtol=1e-6)


def test_a_version_is_replaced_only_when_asked(bring: Import, nets: str) -> None:
    flags = [f"{nets}:NotForScript", "--name", "twice", "--input", "x:FP32:-1,2"]
    assert bring(*flags)[0] == 0
    before = Path("artifacts/pytorch/twice-1.mar").read_bytes()
    code, _, complaint = bring(*flags, "--description", "again")
    assert code == 1
    assert complaint.endswith("is there already; give --force to replace it, or --version N to add one\n")
    assert Path("artifacts/pytorch/twice-1.mar").read_bytes() == before
    assert bring(*flags, "--description", "again", "--force")[0] == 0
    assert bring(*flags, "--version", "2")[0] == 0
    (model,) = imported(Path("artifacts"))
    assert model.versions == {"pytorch": (1, 2)}


def test_a_twin_must_be_called_alike(bring: Import, workplace: Path, nets: str) -> None:
    text_model(workplace / "judge")
    flags = ["judge", "--signature", "double", "--name", "double", "--input", "x:FP32:-1,2"]
    assert bring(*flags)[0] == 0
    flags = [f"{nets}:NotForScript", "--name", "double"]
    code, _, complaint = bring(*flags, "--input", "value:FP32:-1,2")
    assert code == 1
    assert "double 1 is there in tensorflow with the inputs x:FP32:-1,2; both must be alike" in complaint
    assert bring(*flags, "--input", "x:FP32:-1,2", "--output", "y")[0] == 0
    (model,) = imported(Path("artifacts"))
    assert model.variants == FRAMEWORKS


def test_what_is_served_is_the_catalog_and_the_imported(
    bring: Import, nets: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(f"{nets}:NotForScript", "--name", "own", "--input", "x:FP32:-1,2")
    root = Path("artifacts")
    assert [model.name for model in served(root)] == [*CATALOG, "own"]
    (own,) = served(root, ["own"])
    assert own.is_imported
    assert own.variants == ("pytorch",)
    assert served(root, ["convnet"])[0].versions == {"tensorflow": (1, 2), "pytorch": (1, 2)}
    with pytest.raises(UnknownNameError, match=r"no model named other; there are linear_regression, .*, own"):
        served(root, ["other"])
    assert main(["list", "--out", "artifacts"]) == 0
    assert "own" in capsys.readouterr().out


def test_an_artifact_that_no_one_imported_is_not_served(trained: Store, tmp_path: Path) -> None:
    """What lies in the folder under another name, a copy for instance, has no mark."""
    path = tmp_path / "pytorch" / "stranger-1.mar"
    path.parent.mkdir()
    path.write_bytes(trained.path(Artifact("linear_regression", 1, "pytorch")).read_bytes())
    (tmp_path / "pytorch" / "broken-1.mar").write_bytes(b"no archive")
    assert imported(tmp_path) == []


@pytest.mark.parametrize("flag", ["x:FP32", "x:FLOAT:-1", "x:FP32:-1,a", "x y:FP32:-1", ":FP32:-1", "x:FP32:-2"])
def test_an_input_flag_that_is_none_is_refused(bring: Import, flag: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        bring("model.pt", "--input", flag)
    assert exit_.value.code == 2
