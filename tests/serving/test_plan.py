"""What `serving up --models ...` starts, and tells the gateway: the models that were asked for and nothing else.

The kind: a choice of models of which some list is empty. An empty list of names means all to `--models` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from models.artifacts import Artifact, Store
from models.catalog import CATALOG
from models.export import as_json, write_archive
from serving import training
from serving.failures import Failure
from serving.options import parse
from serving.plan import Plan, make_plan
from serving.stops import Stops
from serving.training import ensure_trained
from serving.up import _select

TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
Planned = Callable[[str], tuple[Plan, dict[str, Any]]]


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Imported: `net` in PyTorch, `saved` in TensorFlow, `twin` in both. No documented model is trained."""
    store = Store(tmp_path / "artifacts")
    for name, framework in (("net", "pytorch"), ("saved", "tensorflow"), ("twin", "pytorch"), ("twin", "tensorflow")):
        artifact = Artifact(name, 1, framework)
        signature = {"name": name, "inputs": [TENSOR], "outputs": [TENSOR], "imported": {}, "rows": "independent"}
        path = store.path(artifact)
        if framework == "pytorch":
            path.parent.mkdir(parents=True, exist_ok=True)
            write_archive(path, artifact, {"model.pt": b"", "signature.json": as_json(signature)})
        else:
            (path / "assets.extra").mkdir(parents=True)
            (path / "saved_model.pb").touch()
            (path / "assets.extra" / "duet.json").write_bytes(as_json(signature))
    return store.root


@pytest.fixture
def planned(artifacts: Path, tmp_path: Path) -> Planned:
    def plan(names: str) -> tuple[Plan, dict[str, Any]]:
        run_dir = tmp_path / "run"
        options = parse(["up", "--artifacts", str(artifacts), "--run-dir", str(run_dir), "--models", names])
        made = make_plan(options, _select(options), java=Path("java"), binary=None)
        return made, yaml.safe_load((run_dir / "duet.yaml").read_text())

    return plan


@pytest.mark.parametrize(
    ("names", "models", "servers"),
    [
        ("net", {"net": ["pytorch"]}, ["torchserve"]),
        ("saved", {"saved": ["tensorflow"]}, ["tensorflow"]),
        ("net, saved", {"net": ["pytorch"], "saved": ["tensorflow"]}, ["tensorflow", "torchserve"]),
        ("twin,twin,", {"twin": ["tensorflow", "pytorch"]}, ["tensorflow", "torchserve"]),
        ("net,mlp", {"mlp": ["tensorflow", "pytorch"], "net": ["pytorch"]}, ["tensorflow", "torchserve"]),
    ],
    ids=["PyTorch alone", "TensorFlow alone", "one of each", "a twin, twice", "with a documented one"],
)
def test_only_the_models_asked_for_and_their_servers_run(
    planned: Planned, names: str, models: dict[str, list[str]], servers: list[str]
) -> None:
    plan, config = planned(names)
    assert {name: model["variants"] for name, model in config["models"].items()} == models
    assert sorted(config["servers"]) == sorted({variant for variants in models.values() for variant in variants})
    assert [launch.name for launch in plan.stages[0]] == servers
    assert list(plan.goals) == [*servers, "gateway"]


def test_the_servers_are_given_no_other_model(planned: Planned, tmp_path: Path) -> None:
    """The gateway serves what they list, though its settings do not name it."""
    planned("twin")
    config = (tmp_path / "run" / "tensorflow" / "models.config").read_text()
    properties = (tmp_path / "run" / "torchserve" / "config.properties").read_text()
    assert config.count("config {") == 1
    assert "load_models=twin-1.mar\n" in properties
    assert "net" not in properties.partition("models=")[2].partition("\n")[0]


def test_rows_are_told_for_what_is_known(planned: Planned) -> None:
    _, config = planned("twin,mlp")
    assert config["models"]["twin"]["batching"] == {"rows": {"tensorflow": "independent", "pytorch": "independent"}}
    assert "batching" not in config["models"]["mlp"], "it is not trained: nothing lies there"


def test_a_name_that_is_none_is_told_with_those_that_are(artifacts: Path) -> None:
    options = parse(["up", "--artifacts", str(artifacts), "--models", "net,resnet"])
    with pytest.raises(Failure, match=r"--models: no model named resnet; there are linear_regression, .*, net, saved"):
        _select(options)


@pytest.mark.parametrize("may_train", [False, True])
def test_no_documented_model_asks_for_no_training(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, may_train: bool
) -> None:
    def train(*_: object) -> None:
        raise AssertionError("nothing was asked for")

    monkeypatch.setattr(training, "_train", train)
    ensure_trained(artifacts, [], may_train=may_train, console=Console(), stops=Stops())
    assert Store(artifacts).missing([]) == []
    assert len(Store(artifacts).missing()) == 4 * len(CATALOG)


def test_only_the_documented_models_asked_for_are_trained(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(training, "_train", lambda arguments, stops: asked.extend(arguments))
    with pytest.raises(Failure, match="the training ended well"):  # it made nothing
        ensure_trained(artifacts, [CATALOG["mlp"]], may_train=True, console=Console(file=sys.stderr), stops=Stops())
    assert asked == ["mlp", "--out", str(artifacts)]
    with pytest.raises(Failure, match=r"mlp 1 \(tensorflow\), .* Leave out --no-train") as caught:
        ensure_trained(artifacts, [CATALOG["mlp"]], may_train=False, console=Console(), stops=Stops())
    assert "gan" not in str(caught.value)
