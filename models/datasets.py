"""The data of the documented models, each with a held-out part that is the same in every run and for every seed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from models.spec import Array, Dataset, Split

HELD_OUT_SHARE = 0.2
SPLIT_SEED = 20


class DatasetUnavailableError(RuntimeError):
    """The data could not be fetched, or a file of it not read; the text says what to do."""


def line() -> Dataset:
    """The articles' four points of y = x - 1, and x = 5 held out."""
    x = np.arange(1, 6, dtype=np.float32).reshape(-1, 1)
    y = x - 1
    return Dataset("line", Split((x[:4],), y[:4]), Split((x[4:],), y[4:]))


@cache
def digits_as_pixels() -> Dataset:
    """1,797 handwritten digits (UCI, carried by scikit-learn): float32 [n, 64] in 0..1, int64 [n] in 0..9."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return stratified_split("digits", (pixels / 16).astype(np.float32), labels.astype(np.int64))


@cache
def digits_as_images() -> Dataset:
    """The same digits and the same split, enlarged from 8x8: float32 [n, 28, 28, 1] in 0..1."""
    digits = digits_as_pixels()
    return Dataset("digits", enlarge(digits.train), enlarge(digits.held_out))


@cache
def breast_cancer() -> Dataset:
    """569 tumours (Wisconsin, carried by scikit-learn): float32 [n, 30] as measured, float32 [n, 1], 1 for benign."""
    from sklearn.datasets import load_breast_cancer

    features, benign = load_breast_cancer(return_X_y=True)
    split = stratified_split("breast_cancer", features.astype(np.float32), benign)
    return Dataset(split.name, as_column(split.train), as_column(split.held_out))


def as_column(split: Split) -> Split:
    return Split(split.inputs, split.targets.astype(np.float32)[:, np.newaxis])


@cache
def mnist() -> Dataset:
    """MNIST as Keras's loader fetches and keeps it, for both frameworks: float32 [n, 28, 28, 1] in 0..1.

    Its own split: 60,000 rows to train on, 10,000 held out. Raises DatasetUnavailableError without a network.
    """
    (train_images, train_labels), (test_images, test_labels) = fetch("mnist", "MNIST", "digits")
    return Dataset("mnist", as_images(train_images, train_labels), as_images(test_images, test_labels))


def fetch(module: str, title: str, offline: str, function: str = "load_data") -> Any:
    """What a loader in `keras.datasets` gives. Raises DatasetUnavailableError, which names the `offline` data."""
    from models import frameworks

    frameworks.load("tensorflow")  # Keras, told to keep quiet and to run on TensorFlow
    loader = import_module(f"keras.datasets.{module}")
    try:
        return getattr(loader, function)()
    except Exception as error:
        # Keras raises a bare Exception for a failed download, OSError for a full disk, ValueError for a bad checksum.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetUnavailableError(
            f"{title} could not be fetched ({reason}). Train on the {offline} that need no network: --dataset {offline}"
        ) from error


def as_images(images: Array, labels: Array) -> Split:
    return Split(((images / 255).astype(np.float32)[..., np.newaxis],), labels.astype(np.int64))


def enlarge(split: Split) -> Split:
    rows = resize_matrix(8, 28)
    images = rows @ split.inputs[0].reshape(-1, 8, 8) @ rows.T
    return Split((images.astype(np.float32)[..., np.newaxis],), split.targets)


def resize_matrix(size: int, new_size: int) -> Array:
    """[new_size, size] that resizes one axis bilinearly, pixel centres aligned as in `tf.image.resize`.

    >>> resize_matrix(2, 4)[1]
    array([0.75, 0.25])
    """
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    centres = np.clip(centres, 0, size - 1)
    weights: Array = np.maximum(0, 1 - np.abs(centres[:, np.newaxis] - np.arange(size)))
    return weights


def stratified_split(name: str, inputs: Array, targets: Array) -> Dataset:
    """Holds out the same share of each class; both parts are shuffled once, so their first rows are of all classes."""
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(targets))
    per_class = [shuffled[targets[shuffled] == label] for label in np.unique(targets)]
    out = np.concatenate([rows[: round(HELD_OUT_SHARE * len(rows))] for rows in per_class])
    held = np.isin(shuffled, out)
    train, held_out = shuffled[~held], shuffled[held]
    return Dataset(name, Split((inputs[train],), targets[train]), Split((inputs[held_out],), targets[held_out]))
