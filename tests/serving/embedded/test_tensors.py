"""TensorProto to numpy and back, held against TensorFlow's own reading of the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

from serving.embedded.errors import ServingError
from serving.embedded.tensors import decode, encode
from tests.serving.embedded.savedmodels import TYPES


def proto(dtype: int, shape: list[int], **fields: object) -> tensor_pb2.TensorProto:
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
    tensor_shape = tensor_shape_pb2.TensorShapeProto(dim=dims)
    return tensor_pb2.TensorProto(dtype=dtype, tensor_shape=tensor_shape, **fields)


def refused(message: tensor_pb2.TensorProto) -> bool:
    with pytest.raises(ServingError, match=r"^tensor parsing error: x$") as caught:
        decode("x", message)
    return caught.value.code.name == "INVALID_ARGUMENT"


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("as_content", [True, False])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 4)])
def test_every_type_survives_both_forms(name: str, as_content: bool, shape: tuple[int, ...]) -> None:
    """And TensorFlow reads the same from what `encode` wrote."""
    dtype = tf.as_dtype(name)
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype.as_numpy_dtype)
    message = tensor_pb2.TensorProto()
    encode(array, dtype.as_datatype_enum, message, as_content=as_content)
    again = decode("x", message)
    assert again.dtype == array.dtype
    assert again.shape == shape
    assert np.array_equal(again, array)
    assert np.array_equal(tf.io.parse_tensor(message.SerializeToString(), dtype).numpy(), array)


def test_strings_survive_both_forms() -> None:
    array = np.array([b"", b"\xff\x00", "ä".encode()], np.object_)
    message = tensor_pb2.TensorProto()
    encode(array, types_pb2.DT_STRING, message, as_content=True)
    assert message.tensor_content == b"\x00\x02\x02\xff\x00" + "ä".encode()  # all lengths, then all bytes
    assert decode("x", message).tolist() == array.tolist()
    long = np.array([b"x" * 300], np.object_)
    encode(long, types_pb2.DT_STRING, message := tensor_pb2.TensorProto(), as_content=True)
    assert decode("x", message).tolist() == long.tolist()
    assert tf.io.parse_tensor(message.SerializeToString(), tf.string).numpy().tolist() == long.tolist()
    packed = proto(types_pb2.DT_STRING, [2], tensor_content=b"\x01\x02abc")
    assert decode("x", packed).tolist() == [b"a", b"bc"]


def test_content_is_not_copied() -> None:
    message = proto(types_pb2.DT_FLOAT, [2], tensor_content=np.float32([1, 2]).tobytes())
    assert not decode("x", message).flags.owndata


@pytest.mark.parametrize(
    ("given_values", "count", "expected"),
    [([7.0], 3, [7, 7, 7]), ([1.0, 2.0], 4, [1, 2, 2, 2]), ([], 2, [0, 0]), ([1.0, 2.0, 3.0], 2, [1, 2])],
)
def test_the_last_value_fills_the_rest(given_values: list[float], count: int, expected: list[float]) -> None:
    """No value means zeros, and surplus values are ignored."""
    message = proto(types_pb2.DT_FLOAT, [count], float_val=given_values)
    assert decode("x", message).tolist() == expected


def test_missing_strings_are_empty() -> None:
    assert decode("x", proto(types_pb2.DT_STRING, [2])).tolist() == [b"", b""]


@pytest.mark.parametrize(
    "message",
    [
        proto(types_pb2.DT_FLOAT, [2], tensor_content=b"1234567"),
        proto(types_pb2.DT_FLOAT, [2], tensor_content=b"123456789"),
        proto(types_pb2.DT_DOUBLE, [1], tensor_content=b"1234"),
        proto(types_pb2.DT_FLOAT, [-1], float_val=[1]),
        proto(types_pb2.DT_FLOAT, [1 << 32, 1 << 32], float_val=[1]),
        proto(types_pb2.DT_FLOAT, [1 << 62, 4, 0]),
        proto(types_pb2.DT_FLOAT, [1 << 40], float_val=[1]),
        proto(types_pb2.DT_FLOAT, [1] * 255, float_val=[1]),
        proto(types_pb2.DT_INVALID, [1]),
        proto(types_pb2.DT_RESOURCE, [1]),
        proto(types_pb2.DT_STRING, [1 << 40], tensor_content=b"\x01a"),
        proto(types_pb2.DT_STRING, [1], tensor_content=b"\xff\xff\xff\xff\xff\xff"),
        proto(types_pb2.DT_STRING, [1], tensor_content=b"\x05a"),
        tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT, tensor_shape=tensor_shape_pb2.TensorShapeProto(unknown_rank=True)
        ),
    ],
    ids=lambda message: str(message).replace("\n", " ")[:40],
)
def test_what_does_not_fit_is_refused(message: tensor_pb2.TensorProto) -> None:
    assert refused(message)


def test_small_integers_wrap() -> None:
    assert decode("x", proto(types_pb2.DT_INT8, [2], int_val=[300, -129])).tolist() == [44, 127]


FIELDS = {
    "float_val": st.floats(width=32),
    "double_val": st.floats(),
    "int_val": st.integers(-(2**31), 2**31 - 1),
    "int64_val": st.integers(-(2**63), 2**63 - 1),
    "uint32_val": st.integers(0, 2**32 - 1),
    "uint64_val": st.integers(0, 2**64 - 1),
    "bool_val": st.booleans(),
    "half_val": st.integers(-5, 70_000),
    "string_val": st.binary(max_size=4),
    "scomplex_val": st.floats(width=32),
}


@st.composite
def any_proto(draw: st.DrawFn) -> tensor_pb2.TensorProto:
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, -1, 1 << 40, 1 << 62]), max_size=3))
    field = draw(st.sampled_from(list(FIELDS)))
    dtype = draw(st.sampled_from(sorted(types_pb2.DataType.values())[:24]))
    fields = {field: draw(st.lists(FIELDS[field], max_size=4))}
    if draw(st.booleans()):
        fields["tensor_content"] = draw(st.binary(max_size=24))
    return proto(dtype, shape, **fields)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(any_proto())
def test_any_proto_is_read_or_refused(message: tensor_pb2.TensorProto) -> None:
    """Never another exception, never more memory than its bytes account for."""
    try:
        array = decode("x", message)
    except ServingError:
        return
    assert list(array.shape) == [dim.size for dim in message.tensor_shape.dim]
    if array.size < 200 and array.dtype.kind not in "Oc":
        reference = tf.io.parse_tensor(message.SerializeToString(), tf.as_dtype(message.dtype)).numpy()
        assert array.tobytes() == reference.tobytes()
