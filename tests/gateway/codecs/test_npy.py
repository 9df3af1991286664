from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import npy
from gateway.errors import InvalidArgument, NotAcceptable
from gateway.types import DATATYPES, Tensor

_DATATYPES = [name for name in DATATYPES if name not in ("BF16", "BYTES")]
_SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def file(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(_DATATYPES))
    return Tensor("t", datatype, draw(hnp.arrays(DATATYPES[datatype], draw(_SHAPES))))


@given(tensors())
def test_every_tensor_survives_the_round_trip_bit_for_bit(tensor: Tensor) -> None:
    encoded = npy.encode(tensor)
    decoded = npy.decode("t", tensor.datatype, encoded)
    assert decoded.shape == tensor.shape
    assert decoded.data.tobytes() == tensor.data.tobytes()
    assert np.load(io.BytesIO(encoded)).tobytes() == tensor.data.tobytes()


@given(tensors())
def test_what_numpy_saves_is_read_in_any_order_of_bytes_and_elements(tensor: Tensor) -> None:
    big_endian = np.asfortranarray(tensor.data).astype(tensor.data.dtype.newbyteorder(">"), order="F")
    decoded = npy.decode("t", tensor.datatype, file(big_endian))
    assert decoded.data.astype(tensor.data.dtype).tobytes() == tensor.data.tobytes()


def test_an_array_of_the_models_own_type_is_not_copied() -> None:
    body = file(np.ones((2, 3), np.float32))
    assert np.shares_memory(npy.decode("x", "FP32", body).data, np.frombuffer(body, np.uint8))


def test_numbers_are_converted_as_those_of_json_are() -> None:
    """numpy's own default is float64: a client need not know the model's type, and loses digits at most."""
    assert npy.decode("x", "FP32", file(np.array([0.1]))).data.tolist() == [np.float32(0.1)]
    assert npy.decode("x", "FP32", file(np.array([1]))).data.dtype == np.float32
    assert npy.decode("x", "INT8", file(np.array([-128]))).data.tolist() == [-128]
    assert np.isnan(npy.decode("x", "FP32", file(np.array([np.nan]))).data).all()


@pytest.mark.parametrize(
    ("datatype", "array", "says"),
    [
        ("INT32", np.array([1.0]), "holds float64; the model takes INT32"),
        ("FP32", np.array([True]), "holds bool"),
        ("BOOL", np.array([1]), "holds int64"),
        ("INT8", np.array([128]), "INT8 holds -128 to 127"),
        ("UINT64", np.array([-1]), "UINT64 holds 0"),
        ("FP32", np.array([1e39]), "outside the range"),
        ("FP32", np.array([1j]), "only numbers"),
        ("FP32", np.array(["a"]), "only numbers"),
        ("FP32", np.array([(1, 2)], "i4,i4"), "only numbers"),
        ("BYTES", np.array([b"a"]), "no .npy form"),
        ("BF16", np.array([1], np.uint16), "no .npy form"),
    ],
)
def test_what_is_no_such_number_is_refused(datatype: str, array: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        npy.decode("x", datatype, file(array))


def header(text: str, version: bytes = b"\1\0") -> bytes:
    return npy.MAGIC + version + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        npy.MAGIC,
        npy.MAGIC + b"\7\0" + b" " * 40,
        header("{}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "0," * 40 + ")}"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': ()}") + b"pickle",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 5000 + "}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "-" * 9000 + "1}"),
        header("__import__('os').getpid()"),
        file(np.ones(2, np.float32))[:-1],
        file(np.ones(2, np.float32)) + b"\0",
    ],
)
def test_hostile_files_are_refused_without_taking_memory_for_what_they_claim(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        npy.decode("x", "FP32", body)


@pytest.mark.parametrize(("datatype", "data"), [("BF16", np.zeros(1, np.uint16)), ("BYTES", np.array([b""], object))])
def test_outputs_without_such_a_form_are_refused(datatype: str, data: Any) -> None:
    with pytest.raises(NotAcceptable, match="ask for raw bytes"):
        npy.encode(Tensor("y", datatype, data))
