"""That the two trainings are comparable: the same start, the same batches, the same arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from models import frameworks, weights
from models.artifacts import Artifact, Store
from models.catalog import CATALOG
from models.spec import FRAMEWORKS, ModelSpec, Split
from models.training import Settings, batches, fit
from tests.models.lengths import SHORTENED

SPECS = pytest.mark.parametrize("spec", CATALOG.values(), ids=list(CATALOG))
FRAMEWORK = pytest.mark.parametrize("framework", FRAMEWORKS)


def trained_for(framework: str, spec: ModelSpec, settings: Settings, rows: int) -> tuple[list[float], weights.Weights]:
    twin = frameworks.load(framework).twin(spec, weights.initial(spec, settings.seed))
    data = spec.datasets[spec.default_dataset]().train.rows(slice(0, rows))
    return fit(twin, spec, data, settings, on_epoch=lambda loss: None).loss, twin.weights()


def test_an_epoch_visits_every_row_once_in_an_order_that_the_seed_decides() -> None:
    data = Split((np.arange(10),), np.arange(10))
    first, again, other = ([batch.targets.tolist() for batch in batches(data, 4, (seed, 0))] for seed in (0, 0, 1))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(row for batch in first for row in batch) == list(range(10))
    assert first == again != other


@SPECS
def test_three_updates_leave_both_frameworks_with_the_same_weights(spec: ModelSpec) -> None:
    """Loss, gradient and optimizer agree: any other default, epsilon or layout shows in the first updates."""
    settings = Settings(spec.default_dataset, epochs=1, seed=3)
    rows = 3 * spec.hyperparameters.batch_size
    (loss, ours), (other_loss, theirs) = (trained_for(name, spec, settings, rows) for name in FRAMEWORKS)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    # Behind batch normalisation many activations lie at the bend of the relu, on either side of it by rounding, and
    # Adam makes steps of the learning rate of gradients however small: a few weights of a channel may part.
    normalises = any(name.endswith("running_var") for name in ours)
    for name in ours:
        alike = np.isclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4 if normalises else 2e-5)
        assert alike.mean() >= (0.99 if normalises else 1), name


@FRAMEWORK
def test_training_again_with_the_same_seed_gives_the_same_bits(framework: str) -> None:
    spec = CATALOG["convnet"]
    runs = [
        weights.fingerprint(trained_for(framework, spec, Settings("digits", epochs=2, seed=seed), rows=200)[1])
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


@FRAMEWORK
def test_a_twin_gives_back_the_weights_that_it_was_given(framework: str) -> None:
    """Through the framework's own names and layout and back, for every rank there is."""
    spec = CATALOG["convnet"]
    given = weights.initial(spec, seed=5)
    assert weights.fingerprint(frameworks.load(framework).twin(spec, given).weights()) == weights.fingerprint(given)


@FRAMEWORK
def test_a_twin_refuses_the_weights_of_another_model(framework: str) -> None:
    with pytest.raises(weights.WeightsMismatchError):
        frameworks.load(framework).twin(CATALOG["convnet"], weights.initial(CATALOG["dense_classifier"], 0))


BARS = {
    "linear_regression": ("greatest_error", 0.01),
    "logistic_regression": ("accuracy", 0.95),
    "dense_classifier": ("accuracy", 0.95),
    "mlp": ("accuracy", 0.95),
    "convnet": ("accuracy", 0.96),
    "image_classifier": ("accuracy", 0.97),
    "rnn": ("accuracy", 0.90),
    "lstm_text_generator": ("perplexity", 6),
    "text_classifier": ("accuracy", 0.95),
    "gan": ("accepted", 0.70),
}


@SPECS
def test_the_bar_is_the_documented_one(spec: ModelSpec) -> None:
    assert (spec.measure.name, spec.bar) == BARS[spec.name]


@pytest.mark.full
@SPECS
@FRAMEWORK
def test_native_training_meets_the_models_bar(trained_fully: Store, spec: ModelSpec, framework: str) -> None:
    """Each framework by itself, on rows that it has not seen."""
    record = trained_fully.record(Artifact(spec.name, 1, framework)) or {}
    assert spec.measure.meets(record[spec.measure.name], spec.bar)


@FRAMEWORK
@pytest.mark.parametrize("name", sorted(set(CATALOG) - set(SHORTENED)))
def test_models_that_train_in_seconds_meet_their_bar_in_every_run(trained: Store, name: str, framework: str) -> None:
    assert (trained.record(Artifact(name, 1, framework)) or {})["meets_bar"] is True


@SPECS
def test_both_trainings_are_recorded_from_the_same_start(trained: Store, spec: ModelSpec) -> None:
    ours, theirs = (trained.record(Artifact(spec.name, 1, framework)) or {} for framework in FRAMEWORKS)
    for key in ("initial_fingerprint", "seed", "epochs", "dataset", "hyperparameters", "parameters"):
        assert ours[key] == theirs[key]
    assert len(ours["loss"]) == len(theirs["loss"]) == SHORTENED.get(spec.name, spec.hyperparameters.epochs)
    # Two networks against each other magnify what rounding changes; three updates in, they are alike all the same.
    assert ours["loss"][0] == pytest.approx(theirs["loss"][0], rel=0.1 if spec.adversary else 1e-2)
