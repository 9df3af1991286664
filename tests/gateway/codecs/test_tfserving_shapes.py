from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.tfserving_shapes import fit
from gateway.types import Signature, Tensor, TensorSpec

Shape = tuple[int, ...]


def spec(name: str, shape: Shape) -> TensorSpec:
    return TensorSpec(name, "FP32", shape)


def of(name: str, shape: Shape) -> Tensor:
    return Tensor(name, "FP32", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


@pytest.mark.parametrize(
    ("given_shape", "declared", "fitted"),
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
        # Not ours to guess: the check against the signature names these.
        ((3,), (-1, 4), (3,)),
        ((3,), (-1, -1), (3,)),
        ((3, 2), (-1,), (3, 2)),
        ((2, 27, 28), (-1, 28, 28, 1), (2, 27, 28)),
        ((2, 2), (-1, 1), (2, 2)),
        ((0,), (-1, -1), (0,)),
    ],
)
def test_only_dimensions_of_size_1_at_the_end_are_added_or_dropped(
    given_shape: Shape, declared: Shape, fitted: Shape
) -> None:
    signature = Signature((spec("x", declared),), ())
    result = fit((of("x", given_shape),), signature).inputs[0]
    assert result.shape == fitted
    assert result.data.tobytes() == of("x", given_shape).data.tobytes()


@pytest.mark.parametrize(
    ("given_shape", "declared", "output_declared", "output", "restored"),
    [
        ((3,), (-1, 1), (-1, 1), (3, 1), (3,)),
        ((), (-1, 1), (-1, 1), (1, 1), ()),
        ((3, 1), (-1,), (-1,), (3,), (3, 1)),
        ((3, 1), (-1, 1), (-1, 1), (3, 1), (3, 1)),
        ((3,), (-1, 1), (-1, 4), (3, 4), (3, 4)),
        # Ranks differ: nothing tells that this output follows its input element by element.
        ((2, 28, 28), (-1, 28, 28, 1), (-1, 1), (2, 1), (2, 1)),
        ((3,), (-1, 1), (-1,), (3,), (3,)),
    ],
)
def test_outputs_get_the_same_treatment_back(
    given_shape: Shape, declared: Shape, output_declared: Shape, output: Shape, restored: Shape
) -> None:
    signature = Signature((spec("x", declared),), (spec("y", output_declared),))
    fitted = fit((of("x", given_shape),), signature)
    (result,) = fitted.restore((of("y", output),), signature)
    assert result.shape == restored


def test_inputs_treated_differently_leave_outputs_as_declared() -> None:
    signature = Signature((spec("a", (-1, 1)), spec("b", (-1, 4))), (spec("y", (-1, 1)),))
    fitted = fit((of("a", (3,)), of("b", (3, 4))), signature)
    assert [tensor.shape for tensor in fitted.inputs] == [(3, 1), (3, 4)]
    assert fitted.restore((of("y", (3, 1)),), signature)[0].shape == (3, 1)


def test_an_input_that_the_model_does_not_have_is_left_to_the_check() -> None:
    assert fit((of("z", (3,)),), Signature((spec("x", (-1, 1)),), ())).inputs[0].shape == (3,)


@given(st.lists(st.integers(0, 3), max_size=4), st.integers(0, 3))
def test_for_a_model_that_keeps_shapes_fitting_and_restoring_is_the_identity(sizes: list[int], missing: int) -> None:
    declared = (-1, *sizes, *(1,) * missing)
    signature = Signature((spec("x", declared),), (spec("x", declared),))
    client = of("x", (2, *sizes))
    fitted = fit((client,), signature)
    assert fitted.inputs[0].shape == (2, *declared[1:])
    restored = fitted.restore(fitted.inputs, signature)[0]
    assert restored.data.tobytes() == client.data.tobytes()
    assert restored.shape == client.shape
