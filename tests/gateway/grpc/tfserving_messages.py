"""Calls of TensorFlow Serving's gRPC, and the messages that they send."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from gateway.protos import tfserving_pb2 as pb

ANSWERS = {
    "PredictionService/Predict": pb.PredictResponse,
    "PredictionService/Classify": pb.ClassificationResponse,
    "PredictionService/Regress": pb.RegressionResponse,
    "PredictionService/MultiInference": pb.MultiInferenceResponse,
    "PredictionService/GetModelMetadata": pb.GetModelMetadataResponse,
    "ModelService/GetModelStatus": pb.GetModelStatusResponse,
    "ModelService/HandleReloadConfigRequest": pb.ReloadConfigRequest,
}


def call(channel: grpc.Channel, method: str, message: Any, **arguments: Any) -> tuple[Any, dict[str, str]]:
    """The answer and the trailing metadata."""
    stub = channel.unary_unary(
        f"/tensorflow.serving.{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=ANSWERS[method].FromString,
    )
    answer, seen = stub.with_call(message, timeout=arguments.pop("timeout", 10), **arguments)
    return answer, dict(seen.trailing_metadata())


def refused(channel: grpc.Channel, method: str, message: Any, **arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(channel, method, message, **arguments)
    return raised.value.code(), raised.value.details()


def spec(name: str = "double", version: int | None = None, signature_name: str = "", label: str = "") -> pb.ModelSpec:
    message = pb.ModelSpec(name=name, signature_name=signature_name)
    if version is not None:
        message.version.value = version
    if label:
        message.version_label = label
    return message


def tensor(shape: tuple[int, ...], *, content: bytes = b"", values: tuple[float, ...] = ()) -> pb.TensorProto:
    dims = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in shape])
    return pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=dims, tensor_content=content, float_val=values)


def predict(*values: float, of: pb.ModelSpec | None = None, **members: Any) -> pb.PredictRequest:
    x = tensor((len(values), 1), values=values)
    return pb.PredictRequest(model_spec=of or spec(), **{"inputs": {"x": x}, **members})


def example(value: float) -> bytes:
    feature = pb.Feature(float_list=pb.FloatList(value=[value]))
    return pb.Example(features=pb.Features(feature={"x": feature})).SerializeToString()


GIVEN = pb.Input(example_list_with_context=pb.ExampleListWithContext(examples=[example(1), b""], context=example(0.25)))


def task(signature_name: str, method: str, name: str = "double") -> pb.InferenceTask:
    return pb.InferenceTask(
        model_spec=spec(name, signature_name=signature_name), method_name=f"tensorflow/serving/{method}"
    )
