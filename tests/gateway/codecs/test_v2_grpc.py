from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import raw, v2_grpc
from gateway.errors import InvalidArgument
from gateway.protos import v2_pb2 as pb
from gateway.types import DATATYPES, InferResponse, Tensor

_RAW_ONLY = ("FP16", "BF16")


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(list(DATATYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if datatype == "BYTES":
        array = np.empty(int(np.prod(shape)), np.object_)
        array[:] = draw(st.lists(st.binary(max_size=9), min_size=array.size, max_size=array.size))
        return Tensor("t", datatype, array.reshape(shape))
    return Tensor("t", datatype, draw(hnp.arrays(DATATYPES[datatype], shape)))


def same(one: Tensor, other: Tensor) -> bool:
    if (one.name, one.datatype, one.shape) != (other.name, other.datatype, other.shape):
        return False
    return bytes(raw.encode(one)) == bytes(raw.encode(other))


def asked(*, is_raw: bool, classes: dict[str, int] | None = None) -> v2_grpc.InferMessage:
    return v2_grpc.InferMessage((), (), {}, classes or {}, is_raw)


def sent_back(answer: pb.ModelInferResponse) -> pb.ModelInferRequest:
    """The outputs of an answer as the inputs of a request: both have the same fields. Through the wire."""
    answer = pb.ModelInferResponse.FromString(answer.SerializeToString())
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=answer.raw_output_contents)
    for output in answer.outputs:
        request.inputs.add(name=output.name, datatype=output.datatype, shape=output.shape).contents.CopyFrom(
            output.contents
        )
    return request


@given(st.lists(tensors(), min_size=1, max_size=3), st.booleans())
def test_every_tensor_survives_both_forms_bit_for_bit(outputs: list[Tensor], is_raw: bool) -> None:
    """NaN payloads too, and integers that no double holds."""
    response = InferResponse("m", "tensorflow", 1, tuple(outputs))
    answer = v2_grpc.encode_response(response, asked(is_raw=is_raw))
    expected_raw = is_raw or any(one.datatype in _RAW_ONLY for one in outputs)
    assert len(answer.raw_output_contents) == (len(outputs) if expected_raw else 0)
    decoded = v2_grpc.decode_request(sent_back(answer))
    assert decoded.raw is expected_raw
    assert all(same(one, other) for one, other in zip(outputs, decoded.inputs, strict=True))


@pytest.mark.parametrize(("datatype", "bits"), [("FP32", 0xFF800001), ("FP64", 0xFFF0000000000001)])
@pytest.mark.parametrize("count", [1, 100, 20_000])
def test_a_signalling_nan_survives_the_typed_form(datatype: str, bits: int, count: int) -> None:
    """Whatever the length of the field's length."""
    dtype = DATATYPES[datatype]
    tensor = Tensor("t", datatype, np.full(count, bits, f"u{dtype.itemsize}").view(dtype))
    answer = v2_grpc.encode_response(InferResponse("m", "pytorch", 1, (tensor,)), asked(is_raw=False))
    assert not answer.raw_output_contents
    assert same(v2_grpc.decode_request(sent_back(answer)).inputs[0], tensor)


def test_an_answer_names_model_version_and_id() -> None:
    response = InferResponse("m", "tensorflow", 7, (Tensor("y", "INT8", np.array([-1], np.int8)),))
    answer = v2_grpc.encode_response(response, asked(is_raw=False), request_id="ü")
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "7", "ü")
    assert list(answer.outputs[0].contents.int_contents) == [-1]


def test_one_output_that_travels_raw_only_makes_the_whole_answer_raw() -> None:
    """Both forms must not be mixed (inference_grpc.md)."""
    outputs = (Tensor("h", "FP16", np.ones(1, np.float16)), Tensor("f", "FP32", np.ones(1, np.float32)))
    answer = v2_grpc.encode_response(InferResponse("m", "pytorch", 1, outputs), asked(is_raw=False))
    assert [len(content) for content in answer.raw_output_contents] == [2, 4]


def test_classes_are_asked_for_by_output() -> None:
    request = message("FP32", [1], fp32_contents=[1])
    request.outputs.add(name="y").parameters["classification"].int64_param = 2
    decoded = v2_grpc.decode_request(request)
    assert (decoded.outputs, decoded.classes) == (("y",), {"y": 2})
    outputs = (Tensor("y", "FP32", np.array([[1, 3, 2]], np.float32)),)
    answer = v2_grpc.encode_response(InferResponse("m", "pytorch", 1, outputs), decoded)
    assert answer.outputs[0].datatype == "BYTES"
    assert list(answer.outputs[0].contents.bytes_contents) == [b"3.000000:1", b"2.000000:2"]


def test_parameters_of_every_kind_are_read() -> None:
    request = message("FP32", [1], fp32_contents=[1])
    values: dict[str, Any] = {"bool": True, "int64": -5, "string": "s", "double": 0.5, "uint64": 2**64 - 1}
    for kind, value in values.items():
        setattr(request.parameters[kind], f"{kind}_param", value)
    assert v2_grpc.decode_request(request).parameters == values


def message(datatype: str, shape: list[int], **contents: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(
        name="x", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents) if contents else None
    )
    return request


def raw_message(datatype: str, shape: list[int], *contents: bytes) -> pb.ModelInferRequest:
    request = message(datatype, shape)
    request.raw_input_contents.extend(contents)
    return request


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (message("FP32", [2], fp32_contents=[1]), "takes 2 values"),
        (message("FP32", [1]), "takes 1 values"),
        (message("FP32", [1], fp64_contents=[1]), "FP32 belongs in 'fp32_contents', found fp64_contents"),
        (message("INT32", [1], int_contents=[1], int64_contents=[1]), "belongs in 'int_contents'"),
        (message("INT8", [1], int_contents=[128]), "INT8 holds -128 to 127"),
        (message("UINT16", [1], uint_contents=[1 << 16]), "UINT16 holds 0 to 65535"),
        (message("FP16", [1]), "FP16 has no typed form"),
        (message("FP99", [1]), "unknown datatype 'FP99'"),
        (message("FP32", [-1]), "at least 0"),
        (message("FP32", [1] * 33), "33 dimensions"),
        (message("FP32", [1 << 39, 4]), "too large"),
        (raw_message("FP32", [1], b"123"), "takes 4 bytes"),
        (raw_message("FP99", [1], b"123"), "unknown datatype"),
        (raw_message("FP32", [1], b"1234", b"1234"), "has 2 entries for 1 inputs"),
        (raw_message("BYTES", [1 << 30], b"1234"), "too few"),
        (pb.ModelInferRequest(inputs=[{"datatype": "FP32"}]), "needs a 'name'"),
        (pb.ModelInferRequest(raw_input_contents=[b"1234"]), "has 1 entries for 0 inputs"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(request_: pb.ModelInferRequest, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        v2_grpc.decode_request(request_)


def test_shared_memory_is_not_offered() -> None:
    request = message("FP32", [1])
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(InvalidArgument, match="shared memory"):
        v2_grpc.decode_request(request)


def test_an_output_asked_for_twice_is_refused() -> None:
    request = message("FP32", [1], fp32_contents=[1])
    request.outputs.add(name="y")
    request.outputs.add(name="y")
    with pytest.raises(InvalidArgument, match="twice"):
        v2_grpc.decode_request(request)
