from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rapidjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import tfserving_json as json
from gateway.errors import InvalidArgument, Unimplemented
from gateway.types import DATATYPES, Tensor

KEYS = ("a", "b")


def written(tensor: Tensor) -> bytes:
    return json.dumps({"a": json.encode(tensor)})


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """All datatypes that have a JSON form; NaN and infinities, every int64 and uint64, strings of any bytes."""
    datatype = draw(st.sampled_from(list(json.TYPE_NAMES)))
    # Of an empty list within a list the inner sizes cannot be told: no dimension but the last may be 0.
    shape = (*draw(hnp.array_shapes(min_dims=0, max_dims=2)), draw(st.integers(0, 4)))
    shape = draw(st.sampled_from([shape, ()]))
    if datatype == "BYTES":
        array = np.empty(int(np.prod(shape)), np.object_)
        array[:] = draw(st.lists(st.binary(max_size=9), min_size=array.size, max_size=array.size))
        return Tensor(draw(st.sampled_from(["t", "t_bytes"])), datatype, array.reshape(shape))
    return Tensor("t", datatype, draw(hnp.arrays(DATATYPES[datatype], shape)))


@given(tensors())
def test_every_tensor_survives_its_json_bit_for_bit(tensor: Tensor) -> None:
    """Float32 by its shortest decimals, int64 beyond 2**53. (Only the payload of a NaN has no form.)"""
    decoded = json.tensor("t", tensor.datatype, json.parse(written(tensor), keys=KEYS)["a"])
    assert decoded.shape == tensor.shape
    if tensor.datatype == "BYTES":
        assert decoded.data.tolist() == tensor.data.tolist()
    else:
        expected = (
            np.where(np.isnan(tensor.data), np.nan, tensor.data) if tensor.data.dtype.kind == "f" else tensor.data
        )
        assert decoded.data.dtype == tensor.data.dtype
        assert decoded.data.tobytes() == expected.astype(tensor.data.dtype).tobytes()


@given(hnp.arrays(np.float32, 3))
def test_floats_show_that_they_are_floats(array: np.ndarray) -> None:
    """A point or an exponent in each, so that a client that goes by the tokens takes none for an integer."""
    tokens = written(Tensor("t", "FP32", array)).decode().partition("[")[2].rstrip("]}").split(",")
    assert all(token.lstrip("-") in ("NaN", "Infinity") or set(token) & set(".e") for token in tokens)


def test_numbers_that_json_does_not_know_are_taken_and_written() -> None:
    members = json.parse(b'{"a": [NaN, Infinity, -Infinity, Inf, -Inf, 1.5]}', keys=KEYS)
    decoded = json.tensor("t", "FP32", members["a"])
    assert np.array_equal(decoded.data, np.array([np.nan, np.inf, -np.inf, np.inf, -np.inf, 1.5]), equal_nan=True)
    assert written(decoded) == b'{"a":[NaN,Infinity,-Infinity,Infinity,-Infinity,1.5]}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1} {"a": 2} [[[', {"a": 1}),
        (b'{"a": 1}x', {"a": 1}),
        (b'{"a": 1, "b": 3, "a": 2}', {"a": 1, "b": 3}),
        (b'{"a": NaN, "a": 2} x', {"a": float("nan")}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 18446744073709551615, "b": -9223372036854775808}', {"a": 2**64 - 1, "b": -(2**63)}),
        (b'{"a": 18446744073709551616, "b": 1e-400}', {"a": 2.0**64, "b": 0.0}),
        (b'{"a": "\\u00e4\\ud83d\\ude00"}', {"a": "ä😀"}),
    ],
)
def test_documents_are_read_as_rapidjson_reads_them(body: bytes, expected: dict[str, Any]) -> None:
    """What lies behind the object does not matter; of equal keys the first counts; 64 bits are exact."""
    assert repr(json.parse(body, keys=KEYS)) == repr(expected) or json.parse(body, keys=KEYS) == expected


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(), st.lists))
def test_both_parsers_read_the_same(value: Any) -> None:
    """Bit for bit: orjson is there for speed only."""
    body = rapidjson.dumps({"a": value}, number_mode=rapidjson.NM_NAN).encode()
    assert repr(json.parse(body, keys=KEYS)["a"]) == repr(json.parse(body + b" x", keys=KEYS)["a"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b'{"a": 1e400}', "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b'{"a": 01}', "JSON Parse error: Missing a comma or '}' after an object member. at offset: 7"),
        (b'{"a": "\\ud800"}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
        (b'{"a": "\xff"}', "JSON Parse error: the document is not UTF-8 at offset: 7"),
        (b"[" * 500_000, "the JSON is nested more than 32 levels deep"),
        (b'{"a":' * 5_000, "the JSON is nested more than 32 levels deep"),
        (b'["x"]', 'JSON Value: [\n    "x"\n] Is not object'),
        (b"NaN", "JSON Value: NaN Is not object"),
    ],
)
def test_what_is_no_object_is_refused_in_the_servers_words(body: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        json.parse(body, keys=KEYS)
    assert raised.value.message == says


@pytest.mark.parametrize(
    ("datatype", "value", "says"),
    [
        ("FP32", "x", 'JSON Value: "x" Type: String is not of expected type: float'),
        ("FP64", [[1.0, None]], "JSON Value: null Type: Null is not of expected type: double"),
        ("FP32", [True], "JSON Value: true Type: True is not of expected type: float"),
        ("FP32", [1.0, {"b64": "YQ=="}], "Type: Object is not of expected type: float"),
        ("INT32", [7.0], "JSON Value: 7.0 Type: Number is not of expected type: int32"),
        ("INT32", [2**31], "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("INT8", [300], "JSON Value: 300 Type: Number is not of expected type: int8"),
        ("UINT64", [0, -1], "JSON Value: -1 Type: Number is not of expected type: uint64"),
        ("INT64", [False], "JSON Value: false Type: False is not of expected type: int64"),
        ("BOOL", [1], "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("BYTES", ["a", 1], "JSON Value: 1 Type: Number is not of expected type: string"),
        ("BYTES", [{"b64": 1}], "not formatted correctly for base64 data"),
        ("BYTES", [{"b64": "YQ==", "x": 1}], "not formatted correctly for base64 data"),
        ("BYTES", [{"b64": "*"}], "Unable to base64 decode"),
        ("BYTES", [{"b64": "ü"}], "Unable to base64 decode"),
        ("FP32", [[1, 2], [3]], "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ("FP32", [[1, 2], 3], "JSON Value: 3 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ("FP32", [1, [3]], "Encountered list at unexpected level: 1 expected < 1"),
        ("FP32", "[" * 40, "is not of expected type: float"),
    ],
)
def test_what_a_datatype_does_not_take_is_named(datatype: str, value: Any, says: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        json.tensor("t", datatype, value)
    assert says in raised.value.message


@pytest.mark.parametrize(
    ("value", "expected"),
    [("ä", "ä".encode()), ({"b64": "/w=="}, b"\xff"), ({"b64": "/w"}, b"\xff"), ({"b64": ""}, b"")],
)
def test_a_string_may_be_base64_with_or_without_padding(value: Any, expected: bytes) -> None:
    assert json.tensor("t", "BYTES", [value]).data.tolist() == [expected]


def test_outputs_named_bytes_go_out_as_base64_and_so_does_what_is_no_text() -> None:
    data = np.array([b"a", b"\xff"], np.object_)
    assert json.encode(Tensor("image_bytes", "BYTES", data)) == [{"b64": "YQ=="}, {"b64": "/w=="}]
    assert json.encode(Tensor("text", "BYTES", data)) == ["a", {"b64": "/w=="}]


def test_float32_overflows_to_infinity_as_in_the_server() -> None:
    assert json.tensor("t", "FP32", [1e39, -1e39, 1e-60]).data.tolist() == [np.inf, -np.inf, 0.0]


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "UINT16"])
def test_types_without_a_json_form_say_so(datatype: str) -> None:
    with pytest.raises(Unimplemented, match="Conversion of JSON Value: 1 to type: "):
        json.tensor("t", datatype, [1])
    with pytest.raises(InvalidArgument, match="Failed to write JSON value for tensor type: "):
        json.encode(Tensor("t", datatype, np.zeros(1, DATATYPES[datatype])))


def test_lists_within_lists_do_not_take_the_stack() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InvalidArgument, match="unexpected level: 32"):
        json.tensor("t", "FP32", deep)


def test_long_values_are_cut_in_texts() -> None:
    assert len(json.shown(["x" * 10_000])) < 300
