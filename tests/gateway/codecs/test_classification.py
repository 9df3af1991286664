from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs import classification
from gateway.errors import InvalidArgument
from gateway.types import Tensor


def best(datatype: str, data: Any, wanted: int) -> list[Any]:
    (found,) = classification.best((Tensor("y", datatype, data),), {"y": wanted})
    assert found.datatype == "BYTES"
    return found.data.tolist()  # type: ignore[no-any-return]


def test_the_best_classes_of_each_row_come_first() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [3, -1, 2]], np.float32)
    assert best("FP32", scores, 2) == [[b"0.700000:1", b"0.200000:2"], [b"3.000000:0", b"2.000000:2"]]


def test_of_equals_the_lower_index_comes_first() -> None:
    assert best("FP32", np.array([[1, 2, 1, 2]], np.float32), 3) == [[b"2.000000:1", b"2.000000:3", b"1.000000:0"]]


def test_there_are_no_more_classes_than_values() -> None:
    assert best("FP64", np.array([[0.5]]), 9) == [[b"0.500000:0"]]


def test_dimensions_after_the_batch_are_one_list_of_classes() -> None:
    assert best("INT64", np.arange(8).reshape(2, 2, 2), 1) == [[b"3:3"], [b"7:3"]]


def test_a_tensor_of_one_dimension_is_one_row() -> None:
    assert best("UINT8", np.array([3, 255, 0], np.uint8), 2) == [b"255:1", b"3:0"]


def test_an_empty_batch_has_no_classes() -> None:
    assert best("FP32", np.empty((0, 10), np.float32), 3) == []


def test_half_precision_is_classified_too() -> None:
    assert best("FP16", np.array([[1.5, 2]], np.float16), 1) == [[b"2.000000:1"]]
    assert best("BF16", np.array([[0x3F80, 0xC000]], np.uint16), 2) == [[b"1.000000:0", b"-2.000000:1"]]


def test_outputs_that_are_not_asked_for_as_classes_stay_as_they_are() -> None:
    tensor = Tensor("x", "FP32", np.ones((1, 1), np.float32))
    assert classification.best((tensor,), {"y": 1}) == (tensor,)


def test_what_is_no_number_cannot_be_classified() -> None:
    with pytest.raises(InvalidArgument, match="only numbers"):
        best("BOOL", np.array([[True]]), 1)
    with pytest.raises(InvalidArgument, match="more than the"):
        best("INT8", np.zeros((1000, 1000), np.int8), 1000)


@pytest.mark.parametrize("value", [0, -1, True, "3", 1.5])
def test_the_number_of_classes_is_a_whole_number_above_0(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="classification"):
        classification.count("y", value)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=30), st.integers(1, 40))
def test_classes_are_in_order_and_point_at_their_values(values: list[int], wanted: int) -> None:
    found = [text.split(b":") for text in best("INT8", np.array([values], np.int8), wanted)[0]]
    assert [int(value) for value, _ in found] == sorted(values, reverse=True)[:wanted]
    assert all(values[int(index)] == int(value) for value, index in found)
