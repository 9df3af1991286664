from __future__ import annotations

import numpy as np
import pytest

from gateway.layers.agreement import difference
from gateway.types import DATATYPES, Tensor

Rows = list[list[float]]


def outputs(rows: Rows, datatype: str = "FP32", name: str = "p") -> tuple[Tensor, ...]:
    return (Tensor(name, datatype, np.array(rows, DATATYPES[datatype])),)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1.0, 0.0]], [[1.000001, 1e-7]]),
        ([[np.nan, np.inf, -np.inf]], [[np.nan, np.inf, -np.inf]]),
        ([[0.0, 0.0]], [[0.0, -0.0]]),
        ([], []),
    ],
)
def test_the_last_digits_are_no_difference(one: Rows, other: Rows) -> None:
    assert difference(outputs(one), outputs(other)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1.0, 0.0]], [[1.001, 0.0]]),
        ([[1.0]], [[np.nan]]),
        ([[np.inf]], [[-np.inf]]),
        ([[0.0]], [[1e-3]]),
        ([[1e9], [1e-3]], [[1e9], [2e-3]]),
        ([[1e30], [1.0]], [[1e30], [1.0001]]),
    ],
    ids=["digits", "nan", "infinity", "zero", "small-beside-huge", "smaller-beside-huger"],
)
def test_a_difference_is_measured_by_its_own_row(one: Rows, other: Rows) -> None:
    """Whatever the other rows hold: a small row beside a huge one is no less an answer."""
    found = difference(outputs(one), outputs(other))
    assert found is not None
    assert found.output == "p"


@pytest.mark.parametrize("datatype", ["INT64", "INT8", "UINT8", "BOOL"])
def test_whole_numbers_are_equal_or_not(datatype: str) -> None:
    assert difference(outputs([[1], [0]], datatype), outputs([[1], [0]], datatype)) is None
    found = difference(outputs([[1], [0]], datatype), outputs([[1], [1]], datatype))
    assert found is not None
    assert found.gross_rows == 1


def test_bytes_are_equal_or_not() -> None:
    one, other = (Tensor("s", "BYTES", np.array([text], object)) for text in (b"a", b"b"))
    assert difference((one,), (one,)) is None
    assert difference((one,), (other,)) is not None


def test_bf16_is_compared_by_value() -> None:
    assert difference(outputs([[0x3F80]], "BF16"), outputs([[0x3F81]], "BF16")) is None  # 1.0 and its neighbour
    assert difference(outputs([[0x3F80]], "BF16"), outputs([[0x4000]], "BF16")) is not None


def test_outputs_are_compared_by_name() -> None:
    p, q = outputs([[1.0]], name="p"), outputs([[2.0]], name="q")
    assert difference((*p, *q), (*q, *p)) is None
    for other in (p, (*p, *outputs([[2.0]], name="r")), (*p, *outputs([[2.0], [2.0]], name="q"))):
        found = difference((*p, *q), other)
        assert found is not None
        assert found.form


def test_a_difference_tells_its_size_and_none_of_the_values() -> None:
    found = difference(outputs([[4321.0]]), outputs([[2160.5]]))
    assert str(found) == "output 'p' differs by 0.5 of its row's greatest value"
