"""What a client of each dialect gets for ``double``, y = 2x: the basic matrix that every kind of server has to pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import httpx
import numpy as np

from gateway.protos import tfserving_pb2 as tf
from gateway.protos import torchserve_pb2 as ts
from gateway.protos import v2_pb2 as v2


@dataclass(frozen=True)
class Caller:
    """A gateway as a client sees it. ``model`` may pin a variant."""

    client: httpx.Client
    grpc_port: int

    def rest(self, path: str, body: object) -> httpx.Response:
        return self.client.post(path, json=body)

    def unary(self, method: str, request: object, answer: type, seconds: float = 10) -> object:
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            call = channel.unary_unary(
                method,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,  # type: ignore[attr-defined]
            )
            return call(request, timeout=seconds)


def v2_rest(caller: Caller, model: str, x: float) -> float:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x]}]}
    answer = caller.rest(f"/v2/models/{model}/infer", body)
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


def v2_grpc(caller: Caller, model: str, x: float) -> float:
    message = v2.ModelInferRequest(model_name=model, raw_input_contents=[np.float32(x).tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    answer = caller.unary("/inference.GRPCInferenceService/ModelInfer", message, v2.ModelInferResponse)
    return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])  # type: ignore[attr-defined]


def tfserving_rest(caller: Caller, model: str, x: float) -> float:
    answer = caller.rest(f"/v1/models/{model}:predict", {"instances": [[x]]})
    assert answer.status_code == 200, answer.text
    return float(answer.json()["predictions"][0][0])


def tfserving_grpc(caller: Caller, model: str, x: float) -> float:
    message = tf.PredictRequest(model_spec=tf.ModelSpec(name=model))
    message.inputs["x"].dtype = tf.DT_FLOAT
    message.inputs["x"].tensor_content = np.float32(x).tobytes()
    for size in (1, 1):
        message.inputs["x"].tensor_shape.dim.add(size=size)
    answer = caller.unary("/tensorflow.serving.PredictionService/Predict", message, tf.PredictResponse)
    return _first(answer.outputs["y"])  # type: ignore[attr-defined]


def _first(tensor: tf.TensorProto) -> float:
    found = np.frombuffer(tensor.tensor_content, np.float32) if tensor.tensor_content else tensor.float_val
    return float(found[0])


def torchserve_rest(caller: Caller, model: str, x: float) -> float:
    answer = caller.rest(f"/predictions/{model}", {"x": [[x]]})
    assert answer.status_code == 200, answer.text
    return float(answer.json()[0][0])


def torchserve_grpc(caller: Caller, model: str, x: float) -> float:
    message = ts.PredictionsRequest(model_name=model, input={"data": json.dumps({"x": [[x]]}).encode()})
    answer = caller.unary(
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions", message, ts.PredictionResponse
    )
    return float(json.loads(answer.prediction)[0][0])  # type: ignore[attr-defined]


#: Three dialects over two transports.
MATRIX: dict[str, Callable[[Caller, str, float], float]] = {
    "v2 REST": v2_rest,
    "v2 gRPC": v2_grpc,
    "TF Serving REST": tfserving_rest,
    "TF Serving gRPC": tfserving_grpc,
    "TorchServe REST": torchserve_rest,
    "TorchServe gRPC": torchserve_grpc,
}
