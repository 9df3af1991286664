from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import json
from gateway.errors import InvalidArgument, NotAcceptable
from gateway.types import DATATYPES, Tensor

_NUMERIC = [name for name in DATATYPES if name not in ("FP16", "BF16", "BYTES")]


@given(st.data())
def test_numbers_survive_json_bit_for_bit(data: st.DataObject) -> None:
    """FP32 too: the shortest decimals read back as the same float."""
    datatype = data.draw(st.sampled_from(_NUMERIC))
    dtype = DATATYPES[datatype]
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    elements = hnp.from_dtype(dtype, **finite)
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0), elements=elements))
    flat = orjson.loads(orjson.dumps(json.encode(Tensor("t", datatype, array)), option=orjson.OPT_SERIALIZE_NUMPY))
    decoded = json.decode("t", datatype, array.shape, flat, may_hold_booleans=True)
    assert decoded.data.dtype == dtype
    assert decoded.data.tobytes() == array.tobytes()


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_data_may_be_flat_or_nested(data: list[Any]) -> None:
    decoded = json.decode("x", "FP32", (2, 2), data, may_hold_booleans=False)
    assert decoded.data.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("data", [["ä", "", "b", "c"], [["ä", ""], ["b", "c"]]])
def test_strings_travel_as_utf8(data: list[Any]) -> None:
    decoded = json.decode("s", "BYTES", (2, 2), data, may_hold_booleans=False)
    assert decoded.data.tolist() == [["ä".encode(), b""], [b"b", b"c"]]
    assert json.encode(decoded) == ["ä", "", "b", "c"]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "says"),
    [
        ("FP32", (2,), [1, 2, 3], r"takes 2 values, 'data' has 3"),
        ("FP32", (2, 2), [[1, 2, 3, 4]], r"form \[1, 4\]"),
        ("FP32", (2, 2), [[1, 2], [3]], r"nested unevenly"),
        ("FP32", (1,), ["1"], r"FP32 takes numbers"),
        ("FP32", (1,), [None], r"FP32 takes numbers"),
        ("FP32", (2,), [True, 2.0], r"found a boolean"),
        ("INT32", (2, 1), [[True], [2]], r"found a boolean"),
        ("FP32", (1,), [1e39], r"outside the range of FP32"),
        ("INT32", (1,), [1.0], r"INT32 takes integers"),
        ("INT32", (1,), [2**31], r"INT32 holds -2147483648 to 2147483647"),
        ("UINT8", (1,), [-1], r"UINT8 holds 0 to 255"),
        ("INT64", (1,), [2**63], r"INT64 holds"),
        ("BOOL", (1,), [1], r"BOOL takes booleans"),
        ("BYTES", (1,), [1], r"BYTES takes strings"),
        ("BYTES", (2,), ["a"], r"takes 2 strings, 'data' has 1"),
        ("BYTES", (1,), [["a"]], r"BYTES takes strings"),
        ("FP16", (1,), [1.0], r"no JSON form"),
        ("FP99", (1,), [1.0], r"unknown datatype"),
        ("FP32", (1,), 5, r"must be a list"),
    ],
)
def test_what_json_cannot_mean_is_refused(datatype: str, shape: tuple[int, ...], data: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        json.decode("x", datatype, shape, data, may_hold_booleans=True)


def test_integers_beyond_doubles_are_exact() -> None:
    """Of 2**63 and 0 in one list numpy makes doubles."""
    values = [2**64 - 1, 2**63 + 1, 0]
    assert json.decode("x", "UINT64", (3,), values, may_hold_booleans=False).data.tolist() == values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_with_nan_is_never_written_as_null(value: float) -> None:
    with pytest.raises(NotAcceptable, match="ask for binary data"):
        json.encode(Tensor("y", "FP32", np.array([value], np.float32)))


def test_answers_that_have_no_json_form_say_so() -> None:
    with pytest.raises(NotAcceptable, match="FP16"):
        json.encode(Tensor("y", "FP16", np.ones(1, np.float16)))
    with pytest.raises(NotAcceptable, match="UTF-8"):
        json.encode(Tensor("y", "BYTES", np.array([b"\xff"], np.object_)))


def test_strings_among_numbers_take_no_memory() -> None:
    """numpy would make 2,000 elements of a megabyte each of this."""
    data = ["1"] * 2_000 + ["x" * 1_000_000]
    with pytest.raises(InvalidArgument, match="FP32 takes numbers"):
        json.decode("x", "FP32", (2_001,), data, may_hold_booleans=False)
