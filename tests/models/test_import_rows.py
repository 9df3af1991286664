"""What `python -m models import` says of rows, in both frameworks: the user's word, else an analysis; then a trial."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.__main__ import main

Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["import", *map(str, arguments), "--out", "artifacts"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def torchscript(path: Path, forward: str, setup: str = "pass", arguments: str = "x: Tensor") -> Path:
    """A module of these lines of Python, scripted."""
    import importlib.util

    import torch

    from models.frameworks.pytorch import torchscript as quiet

    source = (
        "import torch\nfrom torch import nn, Tensor\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        f"        super().__init__()\n        {setup}\n\n    def forward(self, {arguments}):\n        {forward}\n"
    )
    path.with_suffix(".py").write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = module.Net().eval()
        net = torch.ao.quantization.quantize_dynamic(net) if "quantised" in path.stem else net
        torch.jit.save(torch.jit.script(net), str(path))
    return path


def savedmodel(path: Path, forward: Callable[[Any], Any]) -> Path:
    from models.frameworks.tensorflow import quiet_stderr, tf

    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
        def serve(self, x: Any) -> dict[str, Any]:
            return {"y": forward(x)}

    module = Net()
    with quiet_stderr():
        tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve.get_concrete_function()})
    return path


def signature(name: str) -> dict[str, Any]:
    archive, folder = Path(f"artifacts/pytorch/{name}-1.mar"), Path(f"artifacts/tensorflow/{name}/1")
    if archive.exists():
        with zipfile.ZipFile(archive) as opened:
            text = opened.read("signature.json")
    else:
        text = (folder / "assets.extra" / "duet.json").read_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


def centred(framework: str, folder: Path) -> list[object]:
    """Each row less the mean of all rows."""
    if framework == "pytorch":
        return [torchscript(folder / "centred.pt", "return x - x.mean(0)"), "--input", "x:FP32:-1,4"]
    from models.frameworks.tensorflow import tf

    return [savedmodel(folder / "centred", lambda x: x - tf.reduce_mean(x, 0))]


def doubled(framework: str, folder: Path) -> list[object]:
    if framework == "pytorch":
        return [torchscript(folder / "doubled.pt", "return x * 2"), "--input", "x:FP32:-1,4"]
    return [savedmodel(folder / "doubled", lambda x: x * 2)]


BOTH = pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])


@BOTH
def test_rows_that_depend_on_each_other_are_never_called_independent(
    bring: Import, tmp_path: Path, framework: str
) -> None:
    """By the analysis or the trial. The example is rows of zeros, of which every batch has the same mean."""
    code, said, _ = bring(*centred(framework, tmp_path))
    assert code == 0
    assert signature("centred")["rows"] == "dependent"
    assert f"rows: dependent ({signature('centred')['rows_reason']}); the gateway will ask each request alone" in said


@BOTH
def test_the_users_own_word_is_refuted_by_the_trial(bring: Import, tmp_path: Path, framework: str) -> None:
    code, _, complaint = bring(*centred(framework, tmp_path), "--rows", "independent")
    assert code == 1
    assert complaint.startswith("models: --rows independent is not so: output ")
    assert " of a row with values up to " in complaint
    assert complaint.endswith("leave it out, or mend the model\n")
    assert list(Path("artifacts").glob("*")) == []


@BOTH
@pytest.mark.parametrize("word", ["independent", "dependent", "unknown"])
def test_the_users_own_word_stands_where_nothing_speaks_against_it(
    bring: Import, tmp_path: Path, framework: str, word: str
) -> None:
    assert bring(*doubled(framework, tmp_path), "--rows", word)[0] == 0
    found = signature("doubled")
    assert found["rows"] == word
    assert found["rows_reason"].startswith("as --rows says")


@pytest.mark.parametrize(
    ("name", "setup", "forward"),
    [
        ("quantised", "self.dense = nn.Linear(4, 4)", "return self.dense(x)"),
        ("softmax", "pass", "return torch.softmax(x, 0)"),
        ("flipped", "pass", "return x.flip(0)"),
        ("counted", "pass", "return x / x.size(0)"),
        ("attending", "pass", "return torch.softmax(x @ x.t(), 1) @ x"),
    ],
)
def test_other_ways_to_depend_on_the_rows_beside(
    bring: Import, tmp_path: Path, name: str, setup: str, forward: str
) -> None:
    """The kind: every row is answered with a row, so shapes tell nothing, and zeros are answered alike in any batch."""
    assert bring(torchscript(tmp_path / f"{name}.pt", forward, setup), "--input", "x:FP32:-1,4")[0] == 0
    assert signature(name)["rows"] == "dependent"


def test_a_model_is_also_tried_without_what_may_be_left_out(bring: Import, tmp_path: Path) -> None:
    """The kind: what a model does only for requests that leave an input out."""
    forward = "return x - x.mean(0) if plus is None else x + plus"
    path = torchscript(tmp_path / "plus.pt", forward, arguments="x: Tensor, plus: Tensor | None = None")
    inputs = ["--input", "x:FP32:-1,4", "--input", "plus:FP32:-1,4"]
    code, _, complaint = bring(path, *inputs, "--rows", "independent")
    assert code == 1
    assert complaint.startswith("models: --rows independent is not so: output ")
    assert bring(path, *inputs)[0] == 0
    assert signature("plus")["rows"] == "dependent"


def test_without_a_free_first_dimension_there_are_no_rows_to_join(bring: Import, tmp_path: Path) -> None:
    path = torchscript(tmp_path / "fixed.pt", "return x * 2")
    code, said, _ = bring(path, "--input", "x:FP32:1,4")
    assert code == 0
    assert signature("fixed")["rows"] == "unknown"
    assert "rows: unknown (input x has no free first dimension); the gateway will ask each request alone\n" in said
    code, _, complaint = bring(path, "--input", "x:FP32:1,4", "--force", "--rows", "independent")
    assert code == 1
    assert complaint.startswith("models: --rows independent is not so: input x has no free first dimension")


def test_an_answer_without_a_row_per_row_is_never_joined(bring: Import, tmp_path: Path) -> None:
    assert bring(torchscript(tmp_path / "mean.pt", "return x.mean()"), "--input", "x:FP32:-1,4")[0] == 0
    assert signature("mean")["rows"] != "independent"


def test_an_analysis_that_fails_leaves_rows_unknown(
    bring: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It proves nothing then, and stops no import. The line says how to tell what the user knows."""

    def fails(*_: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr("models.importing.deliver.analysis", fails)
    code, said, _ = bring(*doubled("pytorch", tmp_path))
    assert code == 0
    assert signature("doubled")["rows"] == "unknown"
    assert (
        "rows: unknown (the analysis failed: RecursionError: maximum recursion depth exceeded); the gateway will ask "
        "each request alone; if you know that rows are independent, import again with --rows independent\n"
    ) in said


def test_a_word_that_is_none_is_refused(bring: Import) -> None:
    with pytest.raises(SystemExit) as exit_:
        bring("model.pt", "--rows", "yes")
    assert exit_.value.code == 2
