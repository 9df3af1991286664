from __future__ import annotations

import numpy as np
import pytest

from gateway.codecs import fitting
from gateway.codecs.fitting import Added
from gateway.errors import InvalidArgument
from gateway.types import Tensor, TensorSpec


def tensor(*shape: int) -> Tensor:
    return Tensor("x", "FP32", np.zeros(shape, np.float32))


def spec(*shape: int) -> TensorSpec:
    return TensorSpec("x", "FP32", shape)


@pytest.mark.parametrize(
    ("given", "declared", "fitted", "added"),
    [
        ((3,), (-1, 1), (3, 1), Added(False, 1, 2)),
        ((), (-1, 1), (1, 1), Added(True, 1, 2)),
        ((4,), (-1, 4), (1, 4), Added(True, 0, 2)),
        ((7,), (-1, -1), (1, 7), Added(True, 0, 2)),
        ((28, 28), (-1, 28, 28, 1), (1, 28, 28, 1), Added(True, 1, 4)),
        ((2, 28, 28), (-1, 28, 28, 1), (2, 28, 28, 1), Added(False, 1, 4)),
        ((28, 28, 1), (-1, 28, 28, 1), (1, 28, 28, 1), Added(True, 0, 4)),
        ((0,), (-1, 28, 28, 1), (0, 28, 28, 1), fitting.NOTHING),
        ((0,), (-1,), (0,), fitting.NOTHING),
        ((1, 2), (-1, 1), (1, 2), fitting.NOTHING),
        ((5,), (-1, 4), (5,), fitting.NOTHING),
        ((4,), (2, 4), (4,), fitting.NOTHING),
        ((2, 2, 2), (-1, 1), (2, 2, 2), fitting.NOTHING),
    ],
)
def test_dimensions_of_size_1_are_added_where_only_they_lack(
    given: tuple[int, ...], declared: tuple[int, ...], fitted: tuple[int, ...], added: Added
) -> None:
    """At the end first, so that a list of one value is a batch as a list of two is; what cannot fit stays as it is."""
    found, what = fitting.fit(tensor(*given), spec(*declared))
    assert (found.shape, what) == (fitted, added)


def test_rows_are_a_batch_already() -> None:
    """Four rows are never taken for one row of four."""
    assert fitting.fit(tensor(4), spec(-1, 4), has_batch=True)[0].shape == (4,)
    assert fitting.fit(tensor(4), spec(-1, 1), has_batch=True)[0].shape == (4, 1)


@pytest.mark.parametrize(
    ("output", "added", "undone"),
    [
        ((3, 1), Added(False, 1, 2), (3,)),
        ((1, 1), Added(True, 1, 2), ()),
        ((1, 10), Added(True, 0, 2), (10,)),
        ((1, 10), Added(True, 1, 4), (10,)),
        ((2, 1), Added(False, 1, 4), (2, 1)),
        ((3, 10), Added(False, 1, 2), (3, 10)),
        ((2, 10), Added(True, 0, 2), (2, 10)),
        ((1,), Added(False, 1, 1), (1,)),
    ],
)
def test_outputs_lose_what_the_inputs_lacked(output: tuple[int, ...], added: Added, undone: tuple[int, ...]) -> None:
    """Only what has size 1, and at the end only if the output has the inputs' rank."""
    assert fitting.undo(tensor(*output), added).shape == undone


def test_inputs_that_were_not_treated_alike_leave_the_outputs_alone() -> None:
    assert fitting.agreed([Added(True, 1, 2), Added(False, 1, 2)]) == Added(False, 1, 2)
    assert fitting.agreed([Added(False, 1, 2), fitting.NOTHING]).trailing == 0
    assert not fitting.agreed([Added(True, 0, 2), fitting.NOTHING]).batch


def test_a_value_has_the_shape_that_it_is_nested_in() -> None:
    assert fitting.of_json(spec(-1, 1), [[1], [2.5]], may_hold_booleans=False).data.tolist() == [[1], [2.5]]
    assert fitting.of_json(spec(-1, 1), 3, may_hold_booleans=False).data.shape == ()
    assert fitting.of_json(TensorSpec("s", "BYTES", (-1,)), "ü", may_hold_booleans=False).data.item() == "ü".encode()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([[1], [2, 3]], "unevenly"),
        (True, "found a boolean"),
        ({"a": 1}, "found an object"),
        ([{"a": 1}], "found an object"),
        ("1", "takes numbers"),
        (None, "takes numbers"),
    ],
)
def test_values_of_another_kind_are_refused(value: object, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        fitting.of_json(spec(-1, 1), value, may_hold_booleans=True)


def test_deep_nesting_is_refused_before_anything_is_made_of_it() -> None:
    value: object = 1
    for _ in range(500):
        value = [value]
    with pytest.raises(InvalidArgument, match="32 dimensions"):
        fitting.of_json(spec(-1, 1), value, may_hold_booleans=False)
