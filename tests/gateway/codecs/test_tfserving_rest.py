from __future__ import annotations

import time
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import tfserving_rest as codec
from gateway.errors import InvalidArgument, Unimplemented
from gateway.types import Signature, Tensor, TensorSpec

X = TensorSpec("x", "FP32", (-1, 1))
ONE = Signature((X,), (TensorSpec("y", "FP32", (-1, 1)),))
TWO = Signature((TensorSpec("i", "INT64", (-1, 2)), TensorSpec("s", "BYTES", (-1,))), ())
HALF = Signature((TensorSpec("x", "FP16", (-1,)),), ())


def inputs(body: Any, signature: Signature) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return {tensor.name: tensor.data.tolist() for tensor in codec.decode_predict(content).inputs(signature)}


@pytest.mark.parametrize(
    ("body", "signature", "expected"),
    [
        ({"instances": [1.0, 2.0, 5.0]}, ONE, {"x": [1.0, 2.0, 5.0]}),
        ({"instances": [[1], [2]]}, ONE, {"x": [[1.0], [2.0]]}),
        ({"instances": [{"x": [1]}, {"x": [2]}]}, ONE, {"x": [[1.0], [2.0]]}),
        ({"inputs": [[1], [2]]}, ONE, {"x": [[1.0], [2.0]]}),
        ({"inputs": {"x": [[1]], "surplus": 1}}, ONE, {"x": [[1.0]]}),
        ({"inputs": 3}, ONE, {"x": 3.0}),
        ({"inputs": []}, ONE, {"x": []}),
        (
            {"instances": [{"i": [1, 2], "s": "a"}, {"s": {"b64": "/w=="}, "i": [3, 2**62]}]},
            TWO,
            {"i": [[1, 2], [3, 2**62]], "s": [b"a", b"\xff"]},
        ),
        ({"inputs": {"i": [[1, 2]], "s": ["a"]}}, TWO, {"i": [[1, 2]], "s": [b"a"]}),
        ({"instances": ["a", {"b64": "Yg=="}]}, Signature(TWO.inputs[1:], ()), {"s": [b"a", b"b"]}),
        (b'{"instances": [1], "instances": [2]}', ONE, {"x": [1.0]}),
    ],
)
def test_rows_and_columns_make_the_same_tensors(body: Any, signature: Signature, expected: dict[str, Any]) -> None:
    assert inputs(body, signature) == expected


@pytest.mark.parametrize(
    ("body", "signature", "says"),
    [
        ({}, ONE, "Missing 'inputs' or 'instances' key"),
        ({"inputs": [], "instances": []}, ONE, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({"instances": 1}, ONE, "Excepting 'instances' to be an list/array"),
        ({"instances": []}, ONE, "No values in 'instances' array"),
        ({"instances": [1, 2]}, TWO, "instances is a plain list, but expecting list of objects"),
        ({"inputs": [1, 2]}, TWO, "inputs is a plain value/list, but expecting an object"),
        ({"inputs": {"i": [[1, 2]]}}, TWO, "Missing named input: s in 'inputs' object."),
        ({"instances": [{"x": 1}, [2]]}, ONE, "Expecting object but got list at item 1 of input list"),
        ({"instances": [1, {"x": 1}]}, ONE, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"i": [1, 2]}]}, TWO, "keys must be equal to: i,s"),
        (
            {"instances": [{"x": 1}, {"x": 1, "z": 2}]},
            ONE,
            "Failed to process element: 1 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not "
            "have named input: z",
        ),
        (
            {"instances": [[1, 2], [3]]},
            ONE,
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 "
            "but got: 1",
        ),
        ({"instances": [[1, 2], [[1, 2]]]}, ONE, "Expecting shape [2] but got: [1,2]"),
        ({"instances": [1, 2, "x"]}, ONE, "element: 2 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"x\""),
        ({"instances": [{"x": 1}, {"x": None}]}, ONE, "Failed to process element: 1 key: x of 'instances' list."),
        ({"instances": [1]}, HALF, "Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half"),
        ({"signature_name": 1, "inputs": 1}, ONE, "'signature_name' key must be a string value."),
    ],
)
def test_bad_bodies_are_refused_in_the_servers_words(body: Any, signature: Signature, says: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        inputs(body, signature)
    assert says in raised.value.message


def test_a_type_without_a_json_form_is_unimplemented_in_columns_only() -> None:
    """In rows the error is wrapped, and becomes INVALID_ARGUMENT."""
    with pytest.raises(Unimplemented):
        inputs({"inputs": [1]}, HALF)


def test_the_signature_is_the_default_unless_named() -> None:
    names = [b'{"inputs":1}', b'{"signature_name":"","inputs":1}', b'{"signature_name":"s","inputs":1}']
    assert [codec.decode_predict(body).signature_name for body in names] == ["serving_default", "serving_default", "s"]


@given(st.integers(1, 40), st.data())
def test_the_row_at_fault_is_found_wherever_it_is(count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    rows: list[Any] = [[1.0, 2.0]] * count
    rows[index] = [1.0, "x"]
    with pytest.raises(InvalidArgument, match=f"element: {index} of"):
        inputs({"instances": rows}, ONE)


def test_a_fault_at_the_end_of_a_large_body_costs_little_more_than_the_body() -> None:
    """The event loop waits meanwhile: row by row, this took many times as long."""
    rows = b"[1]," * 200_000
    start = time.perf_counter()
    inputs(b'{"instances":[' + rows + b"[1]]}", ONE)
    good = time.perf_counter() - start
    start = time.perf_counter()
    with pytest.raises(InvalidArgument, match="element: 200000 of"):
        inputs(b'{"instances":[' + rows + b'"x"]}', ONE)
    assert time.perf_counter() - start < 10 * good


def tensor(name: str, data: Any) -> Tensor:
    array = np.array(data, np.float32)
    return Tensor(name, "FP32", array)


@pytest.mark.parametrize(
    ("outputs", "rows", "expected"),
    [
        ([tensor("y", [2.5, 3.0])], True, b'{"predictions":[2.5,3.0]}'),
        ([tensor("y", [[2.5], [0.1]])], False, b'{"outputs":[[2.5],[0.1]]}'),
        ([tensor("y", 4)], False, b'{"outputs":4.0}'),
        ([tensor("y", np.zeros((0, 1)))], True, b'{"predictions":[]}'),
        ([tensor("y", np.zeros((2, 0)))], True, b'{"predictions":[[],[]]}'),
        ([tensor("y", [1, np.nan])], True, b'{"predictions":[1.0,NaN]}'),
        (
            [tensor("y", [[1], [2]]), Tensor("n", "INT64", np.array([2**62, -1]))],
            True,
            b'{"predictions":[{"y":[1.0],"n":4611686018427387904},{"y":[2.0],"n":-1}]}',
        ),
        ([tensor("y", [[1]]), tensor("z", 2)], False, b'{"outputs":{"y":[[1.0]],"z":2.0}}'),
        ([Tensor("b", "BOOL", np.array([True]))], True, b'{"predictions":[true]}'),
    ],
)
def test_answers_have_the_form_of_their_requests(outputs: list[Tensor], rows: bool, expected: bytes) -> None:
    assert codec.encode_predict(tuple(outputs), rows=rows) == expected


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ([tensor("y", 4)], "Tensor name: y has no shape information"),
        ([tensor("y", [1]), tensor("z", [1, 2])], "Tensor name: z has inconsistent batch size: 2 expecting: 1"),
        ([], "Cannot convert empty tensor map to JSON"),
    ],
)
def test_what_is_no_rows_cannot_answer_rows(outputs: list[Tensor], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        codec.encode_predict(tuple(outputs), rows=True)
