"""Answers that a dialect has no form for, in each dialect.

The kind: the model answered and the answer is sound, and what was asked for cannot be written down. The request fails
with 400, or 501 where the gateway itself has no form for it. The error has the dialect's own shape, names the output
and says what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from gateway.protos import tfserving_pb2 as pb
from gateway.protos import torchserve_pb2 as ts_pb
from gateway.protos import v2_pb2
from tests.fakes.tfserving import FakeTFServing
from tests.gateway.conftest import RunningGateway, start_gateway

#: Of each model's output ``y``: TensorFlow's dtype, the shape for one row, and its content.
ANSWERS: dict[str, tuple[int, tuple[int, ...], dict[str, Any]]] = {
    "half": (pb.DT_HALF, (1, 1), {"tensor_content": b"\x00\x3c"}),
    "bfloat16": (pb.DT_BFLOAT16, (1, 1), {"tensor_content": b"\x80\x3f"}),
    "bytes": (pb.DT_STRING, (1, 1), {"string_val": [b"\xff\xfe"]}),
    "nan": (pb.DT_FLOAT, (1, 1), {"float_val": [float("nan")]}),
    "infinity": (pb.DT_DOUBLE, (1, 1), {"double_val": [float("-inf")]}),
    "complex64": (8, (1, 1), {"tensor_content": bytes(8)}),
    "quint8": (12, (1, 1), {"tensor_content": b"1"}),
    "variant": (21, (1, 1), {}),
    "scalar": (pb.DT_FLOAT, (), {"float_val": [1.0]}),
}
UNCARRIED = ("complex64", "quint8", "variant")


class Telling(FakeTFServing):
    """Declares and answers what the model's name says, and beside ``y`` a plain output ``z``."""

    def metadata(self, request: pb.GetModelMetadataRequest, _: Any) -> pb.GetModelMetadataResponse:
        dtype, shape, _ = ANSWERS[request.model_spec.name]
        free = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=-1), pb.TensorShapeProto.Dim(size=1)])
        x = pb.TensorInfo(name="x:0", dtype=pb.DT_FLOAT, tensor_shape=free)
        y = pb.TensorInfo(name="y:0", tensor_shape=free if shape else pb.TensorShapeProto())
        y.MergeFromString(bytes([2 << 3, dtype]))
        outputs = {"y": y, "z": x} if request.model_spec.name in UNCARRIED else {"y": y}
        definition = pb.SignatureDef(inputs={"x": x}, outputs=outputs, method_name="tensorflow/serving/predict")
        value = pb.Any(value=pb.SignatureDefMap(signature_def={"serving_default": definition}).SerializeToString())
        return pb.GetModelMetadataResponse(model_spec=request.model_spec, metadata={"signature_def": value})

    def predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        dtype, shape, content = ANSWERS[request.model_spec.name]
        answer = pb.PredictResponse(model_spec=request.model_spec)
        if not request.output_filter or "y" in request.output_filter:
            y = answer.outputs["y"]
            y.CopyFrom(pb.TensorProto(**content))
            y.MergeFromString(bytes([1 << 3, dtype]))
            y.tensor_shape.CopyFrom(pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in shape]))
        if request.model_spec.name in UNCARRIED and (not request.output_filter or "z" in request.output_filter):
            answer.outputs["z"].CopyFrom(request.inputs["x"])
        return answer


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    fake = Telling({model: [1] for model in ANSWERS})
    settings = {
        "servers": {"tensorflow": {"kind": "tfserving", "endpoint": fake.endpoint}},
        "models": {model: {} for model in ANSWERS},
    }
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        running.wait_until("/v2/models/scalar/ready", 200)
        yield running
    finally:
        assert running.stop() == 0
        fake.close()
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def channel(gateway: RunningGateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        yield channel


#: A status or a code's name, and the error's text; of an answer "" for the text.
Told = tuple[int | str, str]


def v2_json(gateway: RunningGateway, _: grpc.Channel, model: str, outputs: list[str], binary: bool = False) -> Told:
    body: dict[str, Any] = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
    body["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
    answer = gateway.client.post(f"/v2/models/{model}/infer", json=body if outputs else {"inputs": body["inputs"]})
    return answer.status_code, "" if answer.status_code == 200 else only(answer, "error")


def v2_binary(gateway: RunningGateway, channel: grpc.Channel, model: str, outputs: list[str]) -> Told:
    return v2_json(gateway, channel, model, outputs or ["y"], binary=True)


def v2_grpc(_: RunningGateway, channel: grpc.Channel, model: str, outputs: list[str]) -> Told:
    request = v2_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.float32([1]).tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return called(channel, "/inference.GRPCInferenceService/ModelInfer", request)


def tfserving_rest(gateway: RunningGateway, _: grpc.Channel, model: str, __: list[str]) -> Told:
    answer = gateway.client.post(f"/v1/models/{model}:predict", json={"instances": [[1.0]]})
    return answer.status_code, "" if answer.status_code == 200 else only(answer, "error")


def tfserving_grpc(_: RunningGateway, channel: grpc.Channel, model: str, outputs: list[str]) -> Told:
    request = pb.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.inputs["x"].dtype = pb.DT_FLOAT
    request.inputs["x"].float_val.append(1.0)
    for size in (1, 1):
        request.inputs["x"].tensor_shape.dim.add(size=size)
    return called(channel, "/tensorflow.serving.PredictionService/Predict", request)


def torchserve_rest(gateway: RunningGateway, _: grpc.Channel, model: str, __: list[str]) -> Told:
    answer = gateway.client.post(f"/predictions/{model}", json=[[1.0]])
    if answer.status_code == 200:
        return 200, ""
    body = answer.json()
    assert (body["code"], body["type"]) == (answer.status_code, "BadRequestException")
    return answer.status_code, body["message"]


def torchserve_grpc(_: RunningGateway, channel: grpc.Channel, model: str, __: list[str]) -> Told:
    request = ts_pb.PredictionsRequest(model_name=model, input={"x": b"[[1.0]]"})
    return called(channel, "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions", request)


def only(answer: httpx.Response, member: str) -> str:
    body = answer.json()
    assert list(body) == [member]
    return str(body[member])


def called(channel: grpc.Channel, method: str, request: Any) -> Told:
    try:
        channel.unary_unary(method, request_serializer=lambda message: message.SerializeToString())(request, timeout=20)
    except grpc.RpcError as error:
        return error.code().name, error.details()  # type: ignore[attr-defined]  # grpc's types do not say so
    return "OK", ""


FRONTS: list[Callable[..., Told]] = [
    v2_json,
    v2_binary,
    v2_grpc,
    tfserving_rest,
    tfserving_grpc,
    torchserve_rest,
    torchserve_grpc,
]
WELL = (200, "OK")
_BINARY, _RAW = "binary_data", "Accept: application/octet-stream"
_ELSEWHERE = "ModelInfer"
#: Where not WELL: the words that the error must have, by model and front.
REFUSED: dict[tuple[str, str], tuple[str, ...]] = {
    **{(model, "v2_json"): ("'y'", what, _BINARY) for model, what in (("half", "FP16"), ("bfloat16", "BF16"))},
    **{(model, "v2_json"): ("'y'", what, _BINARY) for model, what in (("bytes", "UTF-8"), ("nan", "NaN"))},
    ("infinity", "v2_json"): ("'y'", "infinity", _BINARY),
    **{(model, "torchserve_rest"): ("'y'", _RAW) for model in ("half", "bfloat16", "bytes", "nan", "infinity")},
    **{(model, "torchserve_grpc"): ("'y'", _ELSEWHERE) for model in ("half", "bfloat16", "bytes", "nan", "infinity")},
    # As TensorFlow Serving says it; NaN it writes bare, and other bytes than UTF-8 the gateway writes as base64.
    ("half", "tfserving_rest"): ("Failed to write JSON value for tensor type: half",),
    ("bfloat16", "tfserving_rest"): ("Failed to write JSON value for tensor type: bfloat16",),
    ("scalar", "tfserving_rest"): ("Tensor name: y has no shape information",),
}


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: front.__name__)
@pytest.mark.parametrize("model", ANSWERS)
def test_what_cannot_be_written_is_refused_in_the_dialects_own_shape(
    gateway: RunningGateway, channel: grpc.Channel, model: str, front: Callable[..., Told]
) -> None:
    status, text = front(gateway, channel, model, [])
    if model in UNCARRIED:
        assert status in (501, "UNIMPLEMENTED")
        assert "'y' is" in text
        assert "ask for other outputs" in text
    elif words := REFUSED.get((model, front.__name__)):
        assert status in (400, "INVALID_ARGUMENT")
        assert all(word in text for word in words), text
    else:
        assert status in WELL, text


@pytest.mark.parametrize("front", [v2_json, v2_binary, v2_grpc, tfserving_grpc], ids=lambda front: front.__name__)
@pytest.mark.parametrize("model", UNCARRIED)
def test_who_asks_for_other_outputs_gets_them(
    gateway: RunningGateway, channel: grpc.Channel, model: str, front: Callable[..., Told]
) -> None:
    assert front(gateway, channel, model, ["z"])[0] in WELL


def test_no_such_answer_counts_against_the_server(gateway: RunningGateway, channel: grpc.Channel) -> None:
    """Each is refused more often than failures in a row take an endpoint out."""
    for model in ANSWERS:
        for _ in range(6):
            for front in (v2_json, torchserve_rest, torchserve_grpc):
                front(gateway, channel, model, [])
    metrics = gateway.admin.get("/metrics").text
    assert 'fault="corrupt"' not in metrics
    assert "duet_retries_total{" not in metrics
    assert "duet_ejections_total{" not in metrics
    for model in UNCARRIED:
        assert v2_json(gateway, channel, model, ["z"])[0] == 200
