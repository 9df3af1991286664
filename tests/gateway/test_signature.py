from __future__ import annotations

import numpy as np
import pytest

from gateway.errors import DataLoss, InvalidArgument, Unimplemented
from gateway.signature import arranged, check, like
from gateway.types import InferRequest, InferResponse, Signature, Tensor, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,))), (TensorSpec("y", "FP32", (-1, 1)),)
)
A = Tensor("a", "FP32", np.zeros((3, 2), np.float32))
B = Tensor("b", "INT64", np.zeros(3, np.int64))


def test_an_input_of_free_rank_takes_any_shape() -> None:
    free = Signature((TensorSpec("x", "FP32", (), unknown_rank=True),), ())
    for shape in ((), (3,), (2, 0, 1)):
        check(InferRequest("m", (Tensor("x", "FP32", np.zeros(shape, np.float32)),)), free)
    with pytest.raises(InvalidArgument, match="datatype INT64"):
        check(InferRequest("m", (Tensor("x", "INT64", np.zeros(1, np.int64)),)), free)


def test_answers_come_as_asked_or_in_the_signatures_order() -> None:
    """TensorFlow Serving's have no order of their own; what is not there is the server's fault."""
    specs = tuple(TensorSpec(name, "FP32", (-1,)) for name in ("z", "a"))
    both = tuple(Tensor(name, "FP32", np.zeros(1, np.float32)) for name in ("a", "z"))
    answer, declared = InferResponse("m", "v", 1, both), Signature((), specs)

    def names(*wanted: str) -> list[str]:
        found = arranged(answer, InferRequest("m", (), wanted), declared)
        return [tensor.name for tensor in found.outputs]

    assert (names(), names("a", "z"), names("a")) == (["z", "a"], ["a", "z"], ["a"])
    with pytest.raises(DataLoss, match="lacks 'more'"):
        arranged(answer, InferRequest("m", (), ("more",)), declared)


def test_a_twin_lends_its_order_where_the_names_are_the_same() -> None:
    def of(*names: str) -> Signature:
        specs = tuple(TensorSpec(name, "FP32", (-1,)) for name in names)
        return Signature(specs, specs)

    assert like(of("a", "b", "c"), of("c", "a", "b")) == of("c", "a", "b")
    assert like(of("a", "b"), of("b", "c")) == of("a", "b")


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_free_first_dimensions_need_not_be_the_same(rows: int) -> None:
    """One query against any number of candidates is one request; whether two such fit, only the model knows."""
    check(InferRequest("m", (A, Tensor("b", "INT64", np.zeros(rows, np.int64)))), SIGNATURE)


def test_inputs_are_put_in_the_signatures_order() -> None:
    assert [tensor.name for tensor in check(InferRequest("m", (B, A)), SIGNATURE).inputs] == ["a", "b"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((A,), r"wrong inputs \(missing: 'b'\); the model's inputs are 'a', 'b'"),
        ((A, B, Tensor("c", "FP32", A.data)), r"unknown: 'c'"),
        ((A, A, B), r"given twice"),
        ((Tensor("a", "FP64", A.data.astype(float)), B), r"'a': datatype FP64; the model takes FP32"),
        ((Tensor("a", "FP32", np.zeros((3, 3), np.float32)), B), r"'a': shape \[3, 3\]; the model takes \[-1, 2\]"),
        ((Tensor("a", "FP32", np.zeros(2, np.float32)), B), r"'a': shape \[2\]"),
        ((Tensor("a", "FP32", np.full((3, 2), np.nan, np.float32)), B), r"'a' holds NaN or infinity"),
        ((Tensor("a", "FP32", np.full((3, 2), -np.inf, np.float32)), B), r"'a' holds NaN or infinity"),
    ],
)
def test_what_the_model_does_not_take_is_refused(inputs: tuple[Tensor, ...], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        check(InferRequest("m", inputs), SIGNATURE)


def test_nan_is_let_in_where_the_models_setting_says_so() -> None:
    inputs = (Tensor("a", "FP32", np.full((3, 2), np.nan, np.float32)), B)
    assert check(InferRequest("m", inputs), SIGNATURE, allow_non_finite=True).inputs == inputs


def test_an_empty_batch_is_a_batch() -> None:
    inputs = (Tensor("a", "FP32", np.zeros((0, 2), np.float32)), Tensor("b", "INT64", np.zeros(0, np.int64)))
    assert check(InferRequest("m", inputs), SIGNATURE).rows == 0


def test_outputs_must_exist() -> None:
    with pytest.raises(InvalidArgument, match="unknown output 'z'; the model's outputs are 'y'"):
        check(InferRequest("m", (A, B), ("z",)), SIGNATURE)


OPTIONAL = Signature(
    (
        TensorSpec("a", "FP32", (-1, 2), optional=True),
        SIGNATURE.inputs[1],
        TensorSpec("z", "COMPLEX64", (), optional=True),
    ),
    (TensorSpec("y", "FP32", (-1,)), TensorSpec("w", "COMPLEX64", (-1,))),
)


@pytest.mark.parametrize("inputs", [(B,), (B, A), (A, B)])
def test_optional_inputs_may_be_missing_and_the_rest_keeps_its_order(inputs: tuple[Tensor, ...]) -> None:
    found = check(InferRequest("m", inputs, ("y",)), OPTIONAL).inputs
    assert [tensor.name for tensor in found] == sorted(tensor.name for tensor in inputs)


def test_a_signature_may_need_no_inputs() -> None:
    every = Signature(OPTIONAL.inputs[:1], SIGNATURE.outputs)
    for signature in (every, Signature((), SIGNATURE.outputs)):
        request = InferRequest("m", ())
        assert (check(request, signature), request.rows) == (request, 1)
    with pytest.raises(InvalidArgument, match=r"wrong inputs \(unknown: 'b'\); the model takes no inputs"):
        check(InferRequest("m", (B,)), Signature((), SIGNATURE.outputs))


@pytest.mark.parametrize(
    ("inputs", "outputs", "error", "says"),
    [
        (
            (),
            ("y",),
            InvalidArgument,
            r"must hold at least one tensor \(missing: 'b'\); the model's inputs are 'a', 'b'",
        ),
        ((A,), ("y",), InvalidArgument, r"missing: 'b'\); .*, of which 'a', 'z' may be left out"),
        ((B, Tensor("z", "FP32", np.float32(0))), ("y",), Unimplemented, "input 'z' is COMPLEX64"),
        ((B,), ("w",), Unimplemented, "output 'w' is COMPLEX64, which the gateway cannot carry; ask for other outputs"),
        ((B,), (), Unimplemented, "output 'w'"),
    ],
)
def test_what_must_be_sent_and_what_cannot_be_carried_is_named(
    inputs: tuple[Tensor, ...], outputs: tuple[str, ...], error: type[Exception], says: str
) -> None:
    """Before anything is sent: an answer that cannot be carried would look like a fault of its server."""
    with pytest.raises(error, match=says):
        check(InferRequest("m", inputs, outputs), OPTIONAL)
