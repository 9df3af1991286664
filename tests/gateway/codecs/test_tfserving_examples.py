from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from gateway.codecs import limits
from gateway.codecs import tfserving_examples as codec
from gateway.errors import DuetError, FailedPrecondition, InvalidArgument
from gateway.protos import tfserving_pb2 as pb
from gateway.types import Signature, Tensor, TensorSpec

INPUTS = (TensorSpec("inputs", "BYTES", (-1,)),)
CLASSES, SCORES = TensorSpec("classes", "BYTES", (-1, 2)), TensorSpec("scores", "FP32", (-1, 2))


def features(serialized: bytes) -> dict[str, list[Any]]:
    example = pb.Example.FromString(serialized)
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def decoded(body: Any) -> list[dict[str, list[Any]]]:
    return [features(example) for example in codec.decode(orjson.dumps(body)).examples]


def test_the_token_makes_the_kind_of_a_feature() -> None:
    """An integer literal is int64, a decimal float, a boolean int64, a string or base64 bytes."""
    example = {"i": 7, "f": [0.5, 2.0], "b": [True, False], "s": ["a", {"b64": "/w=="}], "none": []}
    assert decoded({"examples": [example]}) == [
        {"i": [7], "f": [0.5, 2.0], "b": [1, 0], "s": [b"a", b"\xff"], "none": []}
    ]


def test_the_context_is_shared_and_an_example_may_override_it() -> None:
    body = {"context": {"a": 1, "b": 2}, "examples": [{}, {"b": 3}]}
    assert decoded(body) == [{"a": [1], "b": [2]}, {"a": [1], "b": [3]}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"context": [], "examples": [{}]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": [1, 0.5]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
        ({"signature_name": [], "examples": [{}]}, "'signature_name' key must be a string value."),
    ],
)
def test_bad_bodies_are_refused_in_the_servers_words(body: Any, says: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        decoded(body)
    assert says in raised.value.message


def test_examples_over_grpc_stay_the_bytes_that_they_are() -> None:
    context, example = b"\x0a\x00", b"\x0a\x02\x0a\x00"
    plain = pb.Input(example_list=pb.ExampleList(examples=[example]))
    assert codec.decode_input(plain) == [example]
    shared = pb.ExampleListWithContext(examples=[example, example], context=context)
    assert codec.decode_input(pb.Input(example_list_with_context=shared)) == [context + example] * 2
    with pytest.raises(InvalidArgument, match=r"Input is empty\."):
        codec.decode_input(pb.Input())


@pytest.mark.parametrize(
    ("signature", "method", "kind", "says"),
    [
        (Signature((*INPUTS, *INPUTS[:0]), (SCORES, CLASSES)), codec.CLASSIFY, None, ""),
        (Signature(INPUTS, (TensorSpec("outputs", "FP32", (-1,)),)), codec.REGRESS, None, ""),
        (Signature((SCORES, CLASSES), (SCORES,)), codec.CLASSIFY, InvalidArgument, "Expected one input Tensor."),
        (Signature(INPUTS, (SCORES, CLASSES)), codec.REGRESS, InvalidArgument, "Expected one output Tensor."),
        (
            Signature((TensorSpec("x", "FP32", (-1, 1)),), (SCORES,)),
            codec.CLASSIFY,
            FailedPrecondition,
            "No classification inputs found in SignatureDef: inputs {x: FP32 [-1, 1]}",
        ),
        (
            Signature(INPUTS, (TensorSpec("y", "FP32", (-1, 1)),)),
            codec.CLASSIFY,
            FailedPrecondition,
            'at least one of "classes" or "scores"',
        ),
        (Signature(INPUTS, (SCORES,)), codec.REGRESS, FailedPrecondition, "No regression outputs found"),
    ],
)
def test_a_signature_classifies_or_regresses_by_its_tensors_names(
    signature: Signature, method: str, kind: type[DuetError] | None, says: str
) -> None:
    if kind is None:
        codec.check(signature, method)
        return
    with pytest.raises(kind) as raised:
        codec.check(signature, method)
    assert says in raised.value.message


SCORE = Tensor("scores", "FP32", np.array([[0.1, 1.0]], np.float32))
LABEL = Tensor("classes", "BYTES", np.array([[b"a", b"\xff"]], np.object_))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((SCORE, LABEL), b'{"results":[[["a",0.1],["\xef\xbf\xbd",1.0]]]}'),
        ((SCORE,), b'{"results":[[["",0.1],["",1.0]]]}'),
        ((LABEL,), b'{"results":[[["a",0.0],["\xef\xbf\xbd",0.0]]]}'),
        ((Tensor("scores", "FP32", np.array([[np.nan]], np.float32)),), b'{"results":[[["",NaN]]]}'),
    ],
)
def test_classes_are_pairs_of_label_and_score(outputs: tuple[Tensor, ...], expected: bytes) -> None:
    assert codec.encode(outputs, 1, codec.CLASSIFY) == expected


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_regressions_are_values(shape: tuple[int, ...]) -> None:
    output = Tensor("outputs", "FP32", np.array([0.1, 3], np.float32).reshape(shape))
    assert codec.encode((output,), 2, codec.REGRESS) == b'{"results":[0.1,3.0]}'
    result = codec.encode_result((output,), 2, codec.REGRESS).regression_result
    assert [regression.value for regression in result.regressions] == [np.float32(0.1), 3.0]


@pytest.mark.parametrize(
    ("outputs", "method", "says"),
    [
        ((SCORE,), codec.REGRESS, "Could not find output tensor 'outputs'"),
        ((Tensor("outputs", "FP32", np.zeros((2, 2), np.float32)),), codec.REGRESS, "either"),
        ((Tensor("scores", "FP32", np.zeros(2, np.float32)),), codec.CLASSIFY, "batch_size num_classes"),
        ((Tensor("scores", "FP64", np.zeros((2, 1))),), codec.CLASSIFY, "Got: FP64"),
        ((SCORE,), codec.CLASSIFY, "output batch size of 2. Got: 1"),
        ((), codec.CLASSIFY, "neither"),
    ],
)
def test_an_answer_that_is_none_is_what_tensorflow_serving_makes_of_it(
    outputs: tuple[Tensor, ...], method: str, says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says):
        codec.encode(outputs, 2, method)


@pytest.mark.parametrize("spread", ["one feature", "features", "examples", "context"])
def test_numbers_of_examples_are_bounded_over_the_whole_body(spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_EXAMPLE_VALUES", 6)

    def body(count: int) -> bytes:
        values = [1.5] * count
        documents: dict[str, Any] = {
            "one feature": {"examples": [{"x": values}]},
            "features": {"examples": [{"x": values[:2], "y": values[2:]}]},
            "examples": {"examples": [{"x": value} for value in values]},
            "context": {"context": {"x": values[:2]}, "examples": [{"y": values[2:]}]},
        }
        return orjson.dumps(documents[spread])

    assert codec.decode(body(6)).examples
    with pytest.raises(InvalidArgument, match="more than 6 values"):
        codec.decode(body(7))
