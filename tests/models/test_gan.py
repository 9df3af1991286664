"""That the generator's images are held to what a judge of real digits says, and that a judge can be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import export, frameworks, gan, judge
from models.artifacts import Artifact, Store
from models.catalog import CATALOG
from models.datasets import digits_as_images
from models.spec import FRAMEWORKS, Array

SPEC = CATALOG["gan"]


def drawn(store: Store, framework: str, version: int, folder: Path, latents: Array) -> Array:
    path = export.framework_file(store, Artifact(SPEC.name, version, framework), folder)
    return frameworks.load(framework).load_predictor(path, SPEC)((latents,))[0]


def test_the_judge_knows_real_digits_it_has_not_seen() -> None:
    held_out = digits_as_images().held_out
    digits, confidence = judge.opinions(held_out.inputs[0])
    assert np.mean(digits == held_out.targets) >= 0.96
    assert judge.share_accepted(held_out.inputs[0], held_out.targets) >= 0.9
    assert 0.5 <= confidence[digits != held_out.targets].mean() <= 0.9


@pytest.mark.parametrize("kind", ["noise", "grey", "black"])
def test_the_judge_does_not_accept_what_is_no_digit(kind: str) -> None:
    images = {
        "noise": np.random.default_rng(0).random((500, 28, 28, 1), dtype=np.float32),
        "grey": np.full((500, 28, 28, 1), 0.5, np.float32),
        "black": np.zeros((500, 28, 28, 1), np.float32),
    }[kind]
    assert judge.share_accepted(images, images) == 0


def test_perfect_images_of_nine_digits_alone_count_for_nothing() -> None:
    """A generator that never draws a seven has not learnt to."""
    digits = digits_as_images().train
    assert judge.share_accepted(digits.inputs[0][digits.targets != 7], digits.targets) == 0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_image_has_its_pixels_in_0_to_1_and_another_latent_gives_another(
    trained: Store, framework: str, tmp_path: Path
) -> None:
    latents = gan.latents_and_digits().held_out.inputs[0][:50]
    images = drawn(trained, framework, 1, tmp_path, latents)
    assert images.shape == (50, 28, 28, 1)
    assert 0 <= images.min() < images.max() <= 1
    assert np.abs(images[1:] - images[:1]).max(axis=(1, 2, 3)).min() > 0.01


def test_no_latent_comes_twice() -> None:
    data = gan.latents_and_digits()
    every = np.concatenate([data.train.inputs[0], data.held_out.inputs[0]])
    assert len(np.unique(every, axis=0)) == len(data.train) + len(data.held_out)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_adversary_stays_at_home(trained: Store, framework: str, tmp_path: Path) -> None:
    """The artifact holds the generator and nothing else."""
    path = export.framework_file(trained, Artifact(SPEC.name, 1, framework), tmp_path)
    assert set(frameworks.load(framework).load_weights(path)) == {weight.name for weight in SPEC.weights}


@pytest.mark.full
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_all_ten_digits_appear_in_1000_images_and_seven_of_ten_are_accepted(
    trained_fully: Store, framework: str, tmp_path: Path
) -> None:
    """With latents that are not those of the training's own measure."""
    latents = np.random.default_rng(11).standard_normal((1_000, gan.LATENT), np.float32)
    digits, confidence = judge.opinions(drawn(trained_fully, framework, 1, tmp_path, latents))
    accepted = confidence >= 0.8
    assert accepted.mean() >= 0.7
    assert set(digits[accepted].tolist()) == set(range(10))
