from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import raw
from gateway.errors import InvalidArgument
from gateway.types import DATATYPES, Tensor

_SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(list(DATATYPES)))
    shape = draw(_SHAPES)
    if datatype == "BYTES":
        array = np.empty(int(np.prod(shape)), np.object_)
        array[:] = draw(st.lists(st.binary(max_size=9), min_size=array.size, max_size=array.size))
        return Tensor("t", datatype, array.reshape(shape))
    return Tensor("t", datatype, draw(hnp.arrays(DATATYPES[datatype], shape)))


@given(tensors())
def test_every_tensor_survives_the_round_trip_bit_for_bit(tensor: Tensor) -> None:
    encoded = bytes(raw.encode(tensor))
    decoded = raw.decode("t", tensor.datatype, tensor.shape, encoded)
    assert decoded.shape == tensor.shape
    assert bytes(raw.encode(decoded)) == encoded
    if tensor.datatype == "BYTES":
        assert decoded.data.tolist() == tensor.data.tolist()
    else:
        assert decoded.data.tobytes() == tensor.data.tobytes()


def test_decoding_lays_an_array_over_the_received_bytes() -> None:
    """No copy: the array's memory is the body's."""
    body = np.arange(6, dtype="<f4").tobytes()
    decoded = raw.decode("x", "FP32", (2, 3), memoryview(body))
    assert np.shares_memory(decoded.data, np.frombuffer(body, np.uint8))


def test_strings_have_their_length_in_front() -> None:
    array = np.array([b"ab", b""], np.object_)
    assert raw.encode(Tensor("s", "BYTES", array)) == b"\x02\0\0\0ab\0\0\0\0"


@pytest.mark.parametrize(
    ("datatype", "shape", "body", "says"),
    [
        ("FP32", (2, 2), b"\0" * 12, r"takes 16 bytes, got 12"),
        ("FP99", (1,), b"\0", r"unknown datatype 'FP99'"),
        ("BOOL", (2,), b"\0\2", r"a byte of 0 or 1"),
        ("BYTES", (2,), b"\1\0\0\0a", r"5 bytes are too few for 2"),
        ("BYTES", (1,), b"\5\0\0\0a", r"element 0 is longer"),
        ("BYTES", (1,), b"\1\0\0\0ab", r"1 bytes are left after 1"),
        ("BYTES", (2,), b"\4\0\0\0abcd", r"the data ends at element 1 of 2"),
        ("BYTES", (10**9,), b"", r"too few for 1000000000"),
    ],
)
def test_what_does_not_fit_is_refused(datatype: str, shape: tuple[int, ...], body: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        raw.decode("x", datatype, shape, body)
