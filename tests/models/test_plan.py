from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.artifacts import Store
from models.catalog import CATALOG, select
from models.plan import Options, Plan, decide, with_dataset
from models.spec import FRAMEWORKS, UnknownNameError

REGRESSION = [CATALOG["linear_regression"]]


def told(plan: Plan) -> list[str]:
    return [f"{step.action} {step.artifact.version} {step.artifact.framework}" for step in plan.steps]


def test_from_nothing_pytorch_is_trained_before_it_is_transplanted(tmp_path: Path) -> None:
    plan = decide(Store(tmp_path), REGRESSION, FRAMEWORKS, Options())
    assert told(plan) == ["train 1 pytorch", "train 1 tensorflow", "transplant 2 tensorflow", "transplant 2 pytorch"]
    assert plan.blocked == []


def test_tensorflow_alone_has_no_version_2_before_pytorch_has_version_1(tmp_path: Path) -> None:
    plan = decide(Store(tmp_path), REGRESSION, ["tensorflow"], Options())
    assert told(plan) == ["train 1 tensorflow"]
    assert [(artifact.version, artifact.framework) for artifact in plan.blocked] == [(2, "tensorflow")]


def test_what_is_there_is_left_alone(copied: Callable[[str], Store]) -> None:
    assert decide(copied("linear_regression"), REGRESSION, FRAMEWORKS, Options()) == Plan([], [])


@pytest.mark.parametrize("options", [Options(seed=1), Options(epochs=7), Options(force=True)], ids=str)
def test_what_is_there_by_other_settings_is_made_again(copied: Callable[[str], Store], options: Options) -> None:
    plan = decide(copied("linear_regression"), REGRESSION, FRAMEWORKS, options)
    assert told(plan) == ["train 1 pytorch", "train 1 tensorflow", "transplant 2 tensorflow", "transplant 2 pytorch"]


def test_the_settings_it_was_made_by_may_be_named_again(copied: Callable[[str], Store]) -> None:
    options = Options(dataset="line", epochs=CATALOG["linear_regression"].hyperparameters.epochs, seed=0)
    assert decide(copied("linear_regression"), REGRESSION, FRAMEWORKS, options).steps == []


def test_only_what_is_missing_is_made(copied: Callable[[str], Store]) -> None:
    store = copied("linear_regression")
    (store.root / "tensorflow" / "linear_regression" / "1" / "saved_model.pb").unlink()
    assert told(decide(store, REGRESSION, FRAMEWORKS, Options())) == ["train 1 tensorflow"]


def test_a_new_handler_is_packed_without_training(copied: Callable[[str], Store]) -> None:
    store = Store(copied("linear_regression").root, handler=Path(__file__))
    assert told(decide(store, REGRESSION, FRAMEWORKS, Options())) == ["repack 1 pytorch", "repack 2 pytorch"]


def test_a_dataset_chooses_its_models_unless_models_are_named() -> None:
    able = [spec.name for spec in with_dataset(select(), "mnist", named=False)]
    assert able == ["mlp", "convnet", "image_classifier", "rnn"]
    with pytest.raises(UnknownNameError, match="no dataset mnist for this; there are linear_regression: line"):
        with_dataset(select(["convnet", "linear_regression"]), "mnist", named=True)
    with pytest.raises(UnknownNameError, match="dense_classifier: digits; mlp: digits, mnist"):
        with_dataset(select(), "cifar", named=False)
