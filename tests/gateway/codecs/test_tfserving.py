from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from gateway.codecs import tfserving
from gateway.errors import DataLoss, InvalidArgument
from gateway.protos import tfserving_pb2 as pb
from gateway.types import InferRequest, Signature, Tensor, TensorSpec
from tests.gateway.codecs.test_raw import tensors


def shaped(*sizes: int) -> pb.TensorShapeProto:
    return pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in sizes])


@given(tensors())
def test_every_tensor_survives_the_round_trip_bit_for_bit(tensor: Tensor) -> None:
    proto = pb.TensorProto()
    tfserving.encode_tensor(tensor, proto)
    decoded = tfserving.decode_tensor("t", pb.TensorProto.FromString(proto.SerializeToString()))
    assert (decoded.datatype, decoded.shape) == (tensor.datatype, tensor.shape)
    if tensor.datatype == "BYTES":
        assert decoded.data.tolist() == tensor.data.tolist()
    else:
        assert decoded.data.tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(2), float_val=[0.5, 2]), np.array([0.5, 2], np.float32)),
        (pb.TensorProto(dtype=pb.DT_HALF, tensor_shape=shaped(1), half_val=[0x3C00]), np.ones(1, np.float16)),
        (pb.TensorProto(dtype=pb.DT_INT8, tensor_shape=shaped(1), int_val=[-3]), np.array([-3], np.int8)),
        (pb.TensorProto(dtype=pb.DT_BOOL, tensor_shape=shaped(2), bool_val=[True, False]), np.array([True, False])),
        (pb.TensorProto(dtype=pb.DT_INT64, tensor_shape=shaped(), int64_val=[2**62]), np.array(2**62)),
    ],
    ids=["float", "half", "int8", "bool", "scalar"],
)
def test_typed_values_are_read_too(proto: pb.TensorProto, expected: np.ndarray) -> None:
    """TensorFlow Serving answers in typed fields unless it is started otherwise."""
    decoded = tfserving.decode_tensor("t", proto)
    assert decoded.data.dtype == expected.dtype
    assert np.array_equal(decoded.data, expected)


def test_the_last_value_fills_the_rest() -> None:
    proto = pb.TensorProto(dtype=pb.DT_INT32, tensor_shape=shaped(2, 2), int_val=[1, 2])
    assert tfserving.decode_tensor("t", proto).data.tolist() == [[1, 2], [2, 2]]


def test_a_request_names_model_version_and_outputs() -> None:
    x = Tensor("x", "FP32", np.ones((1, 1), np.float32))
    message = tfserving.encode_predict(InferRequest("m", (x,), ("y",), version=2))
    expected = pb.ModelSpec(name="m", version=pb.Int64Value(value=2), signature_name="serving_default")
    assert message.model_spec == expected
    assert list(message.output_filter) == ["y"]
    assert message.inputs["x"].tensor_content == x.data.tobytes()


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(2), tensor_content=b"abc"), "takes 8 bytes, got 3"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(1), float_val=[1, 2]), "takes 1 values, got 2"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(1)), "takes 1 values, got 0"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(-1)), "not known"),
        (pb.TensorProto(tensor_shape=shaped(1)), "dtype 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_from_a_server_it_is_data_loss(proto: pb.TensorProto, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        tfserving.decode_tensor("t", proto)
    with pytest.raises(DataLoss, match=says):
        tfserving.decode_predict_response(pb.PredictResponse(outputs={"t": proto}))


@given(tensors())
def test_typed_values_survive_the_round_trip_bit_for_bit(tensor: Tensor) -> None:
    proto = pb.TensorProto()
    tfserving.encode_tensor(tensor, proto, typed=True)
    assert not proto.tensor_content
    decoded = tfserving.decode_tensor("t", pb.TensorProto.FromString(proto.SerializeToString()))
    assert (decoded.datatype, decoded.shape, decoded.data.dtype) == (tensor.datatype, tensor.shape, tensor.data.dtype)
    if tensor.datatype == "BYTES":
        assert decoded.data.tolist() == tensor.data.tolist()
    else:
        assert decoded.data.tobytes() == tensor.data.tobytes()


def test_typed_floats_keep_the_payloads_of_their_nans() -> None:
    """Signalling NaNs too, which no way through Python's floats survive."""
    bits = np.array([0x7F800001, 0xFF812345, 0x7FC00001, 1], np.uint32)
    proto = pb.TensorProto()
    tfserving.encode_tensor(Tensor("t", "FP32", bits.view(np.float32)), proto, typed=True)
    assert len(proto.float_val) == 4
    assert tfserving.decode_tensor("t", proto).data.tobytes() == bits.tobytes()


def test_strings_as_tensor_content_have_all_their_lengths_in_front() -> None:
    long = b"x" * 300
    content = b"\x01\x00\xac\x02" + b"a" + long
    proto = pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shaped(3), tensor_content=content)
    assert tfserving.decode_tensor("t", proto).data.tolist() == [b"a", b"", long]


@pytest.mark.parametrize(
    ("proto", "says"),
    [
        (pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shaped(2), tensor_content=b"\x01\x01a"), "but 1 are left"),
        (pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shaped(2), tensor_content=b"\xff\xff"), "lengths"),
        (pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shaped(10**9), tensor_content=b"a"), "too few"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(10**9), float_val=[1]), "send them all"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(2**40, 2**40)), "too large"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(0, 2**62)), "too large"),
        (pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shaped(*[1] * 40), float_val=[1]), "too large"),
        (pb.TensorProto(dtype=pb.DT_INT8, tensor_shape=shaped(1), int_val=[300]), "outside the range of INT8"),
        (pb.TensorProto(dtype=pb.DT_HALF, tensor_shape=shaped(1), half_val=[-1]), "outside the range of FP16"),
    ],
)
def test_a_message_of_a_few_bytes_takes_no_memory_and_does_no_harm(proto: pb.TensorProto, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        tfserving.decode_tensor("t", proto)


SIGNATURE = Signature(
    (TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))), (TensorSpec("y", "FP32", (-1,)),)
)


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        (
            "a",
            (),
            r"input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
            r"Missing but required: {b}.",
        ),
        ("ac", (), "input tensor alias not found in signature: c. Inputs expected to be in the set {a,b}."),
        ("ab", ["z"], "output tensor alias not found in signature: z Outputs expected to be in the set {y}."),
        ("ab", ["y", "y"], "duplicate output tensor alias: y"),
    ],
)
def test_names_are_refused_in_the_servers_words(inputs: str, outputs: list[str], says: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        tfserving.check_names(inputs, outputs, SIGNATURE)
    assert raised.value.message == says
