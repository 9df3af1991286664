from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import fitting
from gateway.codecs.fitting import TFSERVING, TORCHSERVE, TORCHSERVE_ROWS, Added
from gateway.errors import InvalidArgument
from gateway.types import Signature, Tensor, TensorSpec

Shape = tuple[int, ...]


def tensor(*shape: int, name: str = "x") -> Tensor:
    return Tensor(name, "FP32", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def spec(*shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name, "FP32", shape)


@pytest.mark.parametrize(
    ("shape", "declared", "fitted", "added"),
    [
        ((3,), (-1, 1), (3, 1), Added(False, 1, 2)),
        ((), (-1, 1), (1, 1), Added(True, 1, 2)),
        ((4,), (-1, 4), (1, 4), Added(True, 0, 2)),
        ((7,), (-1, -1), (1, 7), Added(True, 0, 2)),
        ((28, 28), (-1, 28, 28, 1), (1, 28, 28, 1), Added(True, 1, 4)),
        ((2, 28, 28), (-1, 28, 28, 1), (2, 28, 28, 1), Added(False, 1, 4)),
        ((28, 28, 1), (-1, 28, 28, 1), (1, 28, 28, 1), Added(True, 0, 4)),
        ((0,), (-1, 28, 28, 1), (0, 28, 28, 1), Added(False, 3, 4)),
        ((0,), (-1,), (0,), fitting.NOTHING),
        ((1, 2), (-1, 1), (1, 2), fitting.NOTHING),
        ((5,), (-1, 4), (5,), fitting.NOTHING),
        ((4,), (2, 4), (4,), fitting.NOTHING),
        ((2, 2, 2), (-1, 1), (2, 2, 2), fitting.NOTHING),
    ],
)
def test_torchserves_clients_may_leave_out_the_batch_too(
    shape: Shape, declared: Shape, fitted: Shape, added: Added
) -> None:
    """At the end first, so that a list of one value is a batch as a list of two is; what cannot fit stays as it is."""
    found, what = fitting.fit(tensor(*shape), spec(*declared), TORCHSERVE)
    assert (found.shape, what) == (fitted, added)


def test_rows_are_a_batch_already() -> None:
    """Four rows are never taken for one row of four."""
    assert fitting.fit(tensor(4), spec(-1, 4), TORCHSERVE_ROWS)[0].shape == (4,)
    assert fitting.fit(tensor(4), spec(-1, 1), TORCHSERVE_ROWS)[0].shape == (4, 1)


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
        ((1,), Added(False, 1, 1), ()),
        ((3,), Added(False, -1, 1), (3, 1)),
        ((3, 4), Added(False, -1, 1), (3, 4)),
    ],
)
def test_outputs_lose_what_the_inputs_lacked(output: Shape, added: Added, undone: Shape) -> None:
    """Only what has size 1, and at the end only if the output has the inputs' rank."""
    assert fitting.undo(tensor(*output), added).shape == undone


def test_inputs_that_were_not_treated_alike_leave_the_outputs_alone() -> None:
    assert fitting.agreed([Added(True, 1, 2), Added(False, 1, 2)]) == Added(False, 1, 2)
    assert fitting.agreed([Added(False, 1, 2), fitting.NOTHING]).trailing == 0
    assert not fitting.agreed([Added(True, 0, 2), fitting.NOTHING]).batch


@pytest.mark.parametrize(
    ("shape", "declared", "fitted"),
    [
        ((3,), (-1, 1), (3, 1)),
        ((3, 1), (-1, 1), (3, 1)),
        ((3, 1), (-1,), (3,)),
        ((3, 1, 1), (-1,), (3,)),
        ((2, 28, 28), (-1, 28, 28, 1), (2, 28, 28, 1)),
        ((0,), (-1, 4), (0, 4)),
        ((0,), (-1, 1), (0, 1)),
        ((), (-1, 1), (1, 1)),
        ((), (-1,), (1,)),
        ((), (-1, -1), (1, 1)),
        ((0,), (-1, -1), (0, 0)),
        # Not ours to guess: the check against the signature names these.
        ((3,), (-1, 4), (3,)),
        ((3,), (-1, -1), (3,)),
        ((3, 2), (-1,), (3, 2)),
        ((2, 27, 28), (-1, 28, 28, 1), (2, 27, 28)),
        ((2, 2), (-1, 1), (2, 2)),
    ],
)
def test_tensorflows_clients_may_leave_out_or_add_dimensions_at_the_end(
    shape: Shape, declared: Shape, fitted: Shape
) -> None:
    signature = Signature((spec(*declared),), ())
    result = fitting.fit_all((tensor(*shape),), signature, TFSERVING).inputs[0]
    assert result.shape == fitted
    assert result.data.tobytes() == tensor(*shape).data.tobytes()


def test_the_dialects_part_where_a_flat_list_may_be_one_example() -> None:
    """The same value, the same declared input; also what only a graph that broadcasts would take."""
    assert [fitting.fit(tensor(4), spec(-1, 4), rules)[0].shape for rules in (TORCHSERVE, TFSERVING)] == [(1, 4), (4,)]
    assert [fitting.fit(tensor(3, 1), spec(-1), rules)[0].shape for rules in (TORCHSERVE, TFSERVING)] == [(3, 1), (3,)]
    assert [fitting.fit(tensor(), spec(-1, -1), r)[0].shape for r in (TORCHSERVE_ROWS, TFSERVING)] == [(), (1, 1)]


@pytest.mark.parametrize(
    ("shape", "declared", "output", "restored"),
    [
        ((3,), (-1, 1), (3, 1), (3,)),
        ((), (-1, 1), (1, 1), ()),
        ((0,), (-1, 1), (0, 1), (0,)),
        ((3, 1), (-1,), (3,), (3, 1)),
        ((3, 1), (-1, 1), (3, 1), (3, 1)),
        ((3,), (-1, 1), (3, 4), (3, 4)),
        # Ranks differ: nothing tells that this output follows its input element by element.
        ((2, 28, 28), (-1, 28, 28, 1), (2, 1), (2, 1)),
        ((3,), (-1, 1), (3,), (3,)),
    ],
)
def test_outputs_get_the_same_treatment_back(shape: Shape, declared: Shape, output: Shape, restored: Shape) -> None:
    fitted = fitting.fit_all((tensor(*shape),), Signature((spec(*declared),), ()), TFSERVING)
    (result,) = fitted.restore((tensor(*output, name="y"),))
    assert result.shape == restored


def test_inputs_treated_differently_leave_outputs_as_declared() -> None:
    signature = Signature((spec(-1, 1, name="a"), spec(-1, 4, name="b")), ())
    fitted = fitting.fit_all((tensor(3, name="a"), tensor(3, 4, name="b")), signature, TFSERVING)
    assert [tensor.shape for tensor in fitted.inputs] == [(3, 1), (3, 4)]
    assert fitted.restore((tensor(3, 1, name="y"),))[0].shape == (3, 1)


def test_an_input_that_the_model_does_not_have_is_left_to_the_check() -> None:
    fitted = fitting.fit_all((tensor(3, name="z"),), Signature((spec(-1, 1),), ()), TFSERVING)
    assert fitted.inputs[0].shape == (3,)


@pytest.mark.parametrize("rules", [TORCHSERVE_ROWS, TFSERVING], ids=["torchserve", "tfserving"])
@given(st.lists(st.integers(0, 3), max_size=4), st.integers(0, 3))
def test_for_a_model_that_keeps_shapes_fitting_and_restoring_is_the_identity(
    rules: fitting.Rules, sizes: list[int], missing: int
) -> None:
    declared = (-1, *sizes, *(1,) * missing)
    client = tensor(2, *sizes)
    fitted = fitting.fit_all((client,), Signature((spec(*declared),), ()), rules)
    assert fitted.inputs[0].shape == (2, *declared[1:])
    restored = fitted.restore(fitted.inputs)[0]
    assert restored.data.tobytes() == client.data.tobytes()
    assert restored.shape == client.shape


@pytest.mark.parametrize("rules", [TORCHSERVE, TFSERVING], ids=["torchserve", "tfserving"])
def test_where_the_rank_is_free_nothing_is_added(rules: fitting.Rules) -> None:
    free = TensorSpec("x", "FP32", (), unknown_rank=True)
    for shape in ((), (1,), (3, 1)):
        found, added = fitting.fit(tensor(*shape), free, rules)
        assert (found.shape, added) == (shape, fitting.NOTHING)


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
