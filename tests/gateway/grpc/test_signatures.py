"""A signature other than the default is chosen over gRPC: in v2, its stream too, and in TorchServe's dialect."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from gateway.protos import tfserving_pb2, torchserve_pb2, v2_pb2
from tests.fakes.tfserving import FakeTFServing
from tests.gateway.grpc.v2_messages import SERVICE, infer, message

EXAMPLE = tfserving_pb2.Example(features={"feature": {"x": {"float_list": {"value": [1.5]}}}}).SerializeToString()
METADATA = (("x-duet-signature", "regress"),)


def request(name: str | None = None, **members: Any) -> v2_pb2.ModelInferRequest:
    contents = v2_pb2.InferTensorContents(bytes_contents=[EXAMPLE])
    tensor = v2_pb2.ModelInferRequest.InferInputTensor(name="inputs", datatype="BYTES", shape=[1], contents=contents)
    parameters = {} if name is None else {"signature_name": v2_pb2.InferParameter(string_param=name)}
    return message(inputs=[tensor], parameters=parameters, **members)


def refusal(channel: grpc.Channel, asked: v2_pb2.ModelInferRequest, **options: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, asked, **options)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


@pytest.mark.parametrize(
    ("asked", "metadata"), [(request("regress"), ()), (request(), METADATA), (request("regress"), METADATA)]
)
def test_parameter_and_metadata_name_the_signature(
    channel: grpc.Channel, tensorflow: FakeTFServing, asked: v2_pb2.ModelInferRequest, metadata: Any
) -> None:
    answer, _ = infer(channel, asked, metadata=metadata)
    assert list(answer.outputs[0].contents.fp32_contents) == [3]
    assert tensorflow.predicted[-1].model_spec.signature_name == "regress"
    assert infer(channel, message(4, parameters={"signature_name": v2_pb2.InferParameter(string_param="")}))[0]


def test_a_signature_that_is_not_there_is_refused_with_those_that_are(channel: grpc.Channel) -> None:
    assert "signatures are classify, regress, serving_default" in refusal(channel, request("nope"))
    assert "several signatures" in refusal(channel, request("classify"), metadata=METADATA)
    number = request()
    number.parameters["signature_name"].int64_param = 7
    assert "'signature_name' must be a string" in refusal(channel, number)


def test_each_request_of_a_stream_names_its_own(channel: grpc.Channel) -> None:
    call = channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        v2_pb2.ModelInferRequest.SerializeToString,
        v2_pb2.ModelStreamInferResponse.FromString,
    )
    one, two, three = call(iter([request("regress"), message(4), request("nope", id="n")]), timeout=10)
    assert list(one.infer_response.outputs[0].contents.fp32_contents) == [3]
    assert list(two.infer_response.outputs[0].contents.fp32_contents) == [8]
    assert (three.infer_response.id, "signatures are classify" in three.error_message) == ("n", True)


def test_the_signature_that_is_named_is_described(channel: grpc.Channel) -> None:
    call = channel.unary_unary(
        SERVICE + "ModelMetadata",
        v2_pb2.ModelMetadataRequest.SerializeToString,
        v2_pb2.ModelMetadataResponse.FromString,
    )
    asked = v2_pb2.ModelMetadataRequest(name="double")
    assert [spec.name for spec in call(asked, timeout=10, metadata=METADATA).inputs] == ["inputs"]
    assert [spec.name for spec in call(asked, timeout=10).inputs] == ["x"]


def test_torchserve_s_metadata_name_it_too(channel: grpc.Channel) -> None:
    call = channel.unary_unary(
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
        torchserve_pb2.PredictionsRequest.SerializeToString,
        torchserve_pb2.PredictionResponse.FromString,
    )
    asked = torchserve_pb2.PredictionsRequest(model_name="double", input={"inputs": EXAMPLE})
    assert call(asked, timeout=10, metadata=METADATA).prediction == b"3.0"
    with pytest.raises(grpc.RpcError) as caught:
        call(asked, timeout=10, metadata=(("x-duet-signature", "nope"),))
    assert "signatures are classify, regress, serving_default" in caught.value.details()
