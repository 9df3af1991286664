"""One caller for each front. They take named arrays and give named arrays, whatever the wire between makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import httpx
import numpy as np

from gateway.codecs import raw
from gateway.codecs import tfserving as tf_codec
from gateway.protos import tfserving_pb2 as tf_pb
from gateway.protos import torchserve_pb2 as ts_pb
from gateway.protos import v2_pb2
from gateway.types import DATATYPES, Tensor
from models.catalog import CATALOG
from models.spec import ModelSpec
from tests.stack import Stack

Arrays = Mapping[str, "np.ndarray[Any, Any]"]
CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


class Refused(Exception):
    """The front's own error; ``code`` is gRPC's name for it."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Front(Protocol):
    def __call__(
        self, stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
    ) -> Arrays: ...


def spec_of(model: str) -> ModelSpec:
    """Of an unknown model, some model's: the request must be one that could be right."""
    return CATALOG.get(model, CATALOG["linear_regression"])


def post(stack: Stack, path: str, content: bytes, seconds: float | None, **headers: str) -> httpx.Response:
    if seconds is not None:
        headers["x-duet-timeout-ms"] = str(seconds * 1e3)
    response = stack.client.post(path, content=content, headers=headers)
    if response.status_code != 200:
        raise Refused(CODES.get(response.status_code, str(response.status_code)), response.text)
    return response


@contextmanager
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as opened:
        try:
            yield opened
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details()) from error  # type: ignore[attr-defined]


def call(stack: Stack, method: str, request: Any, answer: Any, seconds: float | None) -> Any:
    with channel(stack) as opened:
        unary = opened.unary_unary(
            method, request_serializer=lambda m: m.SerializeToString(), response_deserializer=answer.FromString
        )
        return unary(request, timeout=seconds or 30)


def tensors(model: str, inputs: Arrays) -> list[Tensor]:
    return [Tensor(spec.name, spec.datatype, inputs[spec.name]) for spec in spec_of(model).inputs]


def jsonable(array: np.ndarray[Any, Any]) -> Any:
    return np.vectorize(bytes.decode, otypes=[object])(array).tolist() if array.dtype == object else array.tolist()


def from_json(model: str, values: Mapping[str, Any]) -> Arrays:
    outputs = spec_of(model).outputs
    return {spec.name: shaped(np.array(values[spec.name], DATATYPES[spec.datatype]), spec.shape) for spec in outputs}


def shaped(array: np.ndarray[Any, Any], declared: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An empty list has lost its inner dimensions, which the declared shape knows."""
    return array if array.size else np.empty((0, *declared[1:]), array.dtype)


def v2_path(model: str, variant: str, version: int | None) -> str:
    return f"/v2/models/{model}@{variant}" + (f"/versions/{version}" if version else "") + "/infer"


def v2_rest(
    stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
) -> Arrays:
    entries = [
        {"name": t.name, "datatype": t.datatype, "shape": t.shape, "data": jsonable(t.data)}
        for t in tensors(model, inputs)
    ]
    body = json.dumps({"inputs": entries}).encode()
    outputs = post(stack, v2_path(model, variant, version), body, seconds).json()["outputs"]
    return {
        entry["name"]: np.array(entry["data"], DATATYPES[entry["datatype"]]).reshape(entry["shape"])
        for entry in outputs
    }


def v2_rest_binary(
    stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
) -> Arrays:
    blobs = [bytes(raw.encode(tensor)) for tensor in tensors(model, inputs)]
    entries = [
        {"name": t.name, "datatype": t.datatype, "shape": t.shape, "parameters": {"binary_data_size": len(blob)}}
        for t, blob in zip(tensors(model, inputs), blobs, strict=True)
    ]
    document = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(document))}
    answer = post(stack, v2_path(model, variant, version), document + b"".join(blobs), seconds, **headers)
    offset = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
    found = {}
    for entry in json.loads(answer.content[:offset])["outputs"]:
        size = entry["parameters"]["binary_data_size"]
        blob = answer.content[offset : offset + size]
        found[entry["name"]] = raw.decode("y", entry["datatype"], tuple(entry["shape"]), blob).data
        offset += size
    return found


def v2_grpc(
    stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
) -> Arrays:
    request = v2_pb2.ModelInferRequest(model_name=f"{model}@{variant}", model_version=str(version or ""))
    for tensor in tensors(model, inputs):
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(bytes(raw.encode(tensor)))
    answer = call(stack, "/inference.GRPCInferenceService/ModelInfer", request, v2_pb2.ModelInferResponse, seconds)
    return {
        entry.name: raw.decode("y", entry.datatype, tuple(entry.shape), blob).data
        for entry, blob in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def tfserving_rest(
    stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
) -> Arrays:
    path = f"/v1/models/{model}@{variant}" + (f"/versions/{version}" if version else "") + ":predict"
    body = json.dumps({"inputs": {name: jsonable(array) for name, array in inputs.items()}}).encode()
    outputs = post(stack, path, body, seconds).json()["outputs"]
    names = [spec.name for spec in spec_of(model).outputs]
    return from_json(model, outputs if len(names) > 1 else {names[0]: outputs})


def tfserving_grpc(
    stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
) -> Arrays:
    request = tf_pb.PredictRequest()
    request.model_spec.name = f"{model}@{variant}"
    if version:
        request.model_spec.version.value = version
    for tensor in tensors(model, inputs):
        tf_codec.encode_tensor(tensor, request.inputs[tensor.name])
    answer = call(stack, "/tensorflow.serving.PredictionService/Predict", request, tf_pb.PredictResponse, seconds)
    return {name: tf_codec.decode_tensor(name, proto).data for name, proto in answer.outputs.items()}


def torchserve_rest(
    stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
) -> Arrays:
    path = f"/predictions/{model}@{variant}" + (f"/{version}" if version else "")
    body = json.dumps({name: jsonable(array) for name, array in inputs.items()}).encode()
    answer = post(stack, path, body, seconds, **{"content-type": "application/json"})
    return torchserve_answer(model, answer.json())


def torchserve_grpc(
    stack: Stack, model: str, variant: str, inputs: Arrays, *, version: int | None, seconds: float | None
) -> Arrays:
    request = ts_pb.PredictionsRequest(model_name=f"{model}@{variant}", model_version=str(version or ""))
    for name, array in inputs.items():
        request.input[name] = json.dumps(jsonable(array)).encode()
    method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
    answer = call(stack, method, request, ts_pb.PredictionResponse, seconds)
    return torchserve_answer(model, json.loads(answer.prediction))


def torchserve_answer(model: str, value: Any) -> Arrays:
    """Bare for a model with one output, by name for one with several."""
    names = [spec.name for spec in spec_of(model).outputs]
    return from_json(model, value if len(names) > 1 else {names[0]: value})


FRONTS: dict[str, Front] = {
    front.__name__: front
    for front in (v2_rest, v2_rest_binary, v2_grpc, tfserving_rest, tfserving_grpc, torchserve_rest, torchserve_grpc)
}
