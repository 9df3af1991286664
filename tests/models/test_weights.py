from __future__ import annotations

import hashlib

import numpy as np
import pytest

from models import weights
from models.catalog import CATALOG

DENSE = CATALOG["dense_classifier"]


def test_a_fingerprint_is_of_names_shapes_types_and_bytes() -> None:
    """Golden: other tools may compute it from an artifact, so the recipe cannot change unseen."""
    arrays = {"b": np.array([1, 2], np.float32), "a": np.array([[3]], np.float32)}
    recipe = b"a [1, 1] <f4\n" + arrays["a"].tobytes() + b"b [2] <f4\n" + arrays["b"].tobytes()
    assert weights.fingerprint(arrays) == f"sha256:{hashlib.sha256(recipe).hexdigest()}"


def test_a_fingerprint_changes_with_one_weight() -> None:
    one, other = weights.initial(DENSE, seed=0), weights.initial(DENSE, seed=0)
    assert weights.fingerprint(one) == weights.fingerprint(other)
    other["hidden.bias"][3] = 1e-7
    assert weights.fingerprint(one) != weights.fingerprint(other)


def test_a_fingerprint_does_not_depend_on_how_memory_is_ordered() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = [array.astype(">f4"), np.asfortranarray(array)]
    assert {weights.fingerprint({"w": one}) for one in (array, *same)} == {weights.fingerprint({"w": array})}


def test_initial_weights_depend_on_the_seed_alone_and_stay_within_glorots_limit() -> None:
    first, again, other = (weights.initial(DENSE, seed) for seed in (0, 0, 1))
    kernel = "hidden.weight"
    np.testing.assert_array_equal(first[kernel], again[kernel])
    assert not np.array_equal(first[kernel], other[kernel])
    assert 0.95 < np.abs(first[kernel]).max() / np.sqrt(6 / (64 + 64)) <= 1
    assert not first["hidden.bias"].any()


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(weights.WeightsMismatchError, match="linear_regression has the weights"):
        weights.check(CATALOG["linear_regression"], weights.initial(DENSE, 0))
