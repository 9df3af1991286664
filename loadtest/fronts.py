"""The fronts of the gateway as a client sees them: how a request is written once, and how an answer is read.

The variant is pinned by header or metadata, so that both variants get the same body, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson

from gateway.codecs import json as json_codec
from gateway.codecs import raw, v2
from gateway.codecs import tfserving as tf_codec
from gateway.pins import VARIANT
from gateway.protos import tfserving_pb2, torchserve_pb2, v2_pb2
from gateway.types import DATATYPES, Array, InferRequest, Tensor
from models.spec import TensorSpec

Transport = Literal["http", "grpc"]
LENGTH = v2.HEADER_LENGTH
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a payload is made for."""

    model: str
    version: int
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be sent. ``target`` is the path over HTTP, the method over gRPC."""

    transport: Transport
    target: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """``header_length`` is the JSON part's, where the answer has a binary part behind it."""

    body: bytes
    header_length: int | None = None


Encode = Callable[[Signature, Sequence[Tensor]], Call]
Decode = Callable[[Signature, Answer], dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Front:
    """``encode`` raises gateway.errors.DuetError where the front cannot carry a tensor, ``decode`` for a bad answer."""

    name: str
    title: str
    transport: Transport
    encode: Encode
    decode: Decode


def pinned(call: Call, variant: str) -> Call:
    return Call(call.transport, call.target, call.body, {**call.headers, VARIANT: variant})


def _v2_json(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    entries = [
        {"name": one.name, "datatype": one.datatype, "shape": one.shape, "data": json_codec.encode(one)}
        for one in inputs
    ]
    body = orjson.dumps({"inputs": entries}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Call("http", _v2_path(signature), body, JSON)


def _v2_binary(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    blobs = [bytes(raw.encode(one)) for one in inputs]
    entries = [
        {"name": one.name, "datatype": one.datatype, "shape": one.shape, "parameters": {"binary_data_size": len(blob)}}
        for one, blob in zip(inputs, blobs, strict=True)
    ]
    document = orjson.dumps({"inputs": entries, "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(document))}
    return Call("http", _v2_path(signature), b"".join((document, *blobs)), headers)


def _v2_path(signature: Signature) -> str:
    return f"/v2/models/{signature.model}/versions/{signature.version}/infer"


def _v2_answer(_: Signature, answer: Answer) -> dict[str, Array]:
    return {one.name: one.data for one in v2.decode_response(answer.body, answer.header_length)}


def _v2_grpc(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    message = v2_pb2.ModelInferRequest(model_name=signature.model, model_version=str(signature.version))
    for one in inputs:
        message.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        message.raw_input_contents.append(bytes(raw.encode(one)))
    return Call("grpc", "/inference.GRPCInferenceService/ModelInfer", message.SerializeToString())


def _v2_grpc_answer(_: Signature, answer: Answer) -> dict[str, Array]:
    message = v2_pb2.ModelInferResponse.FromString(answer.body)
    return {
        one.name: raw.decode(one.name, one.datatype, tuple(one.shape), blob).data
        for one, blob in zip(message.outputs, message.raw_output_contents, strict=True)
    }


def _tfserving_json(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    path = f"/v1/models/{signature.model}/versions/{signature.version}:predict"
    return Call("http", path, orjson.dumps({"inputs": {one.name: _nested(one) for one in inputs}}), JSON)


def _tfserving_json_answer(signature: Signature, answer: Answer) -> dict[str, Array]:
    return _by_name(signature, orjson.loads(answer.body)["outputs"])


def _tfserving_grpc(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    request = InferRequest(model=signature.model, inputs=tuple(inputs), version=signature.version)
    body = tf_codec.encode_predict(request).SerializeToString()
    return Call("grpc", "/tensorflow.serving.PredictionService/Predict", body)


def _tfserving_grpc_answer(_: Signature, answer: Answer) -> dict[str, Array]:
    message = tfserving_pb2.PredictResponse.FromString(answer.body)
    return {one.name: one.data for one in tf_codec.decode_predict_response(message)}


def _torchserve_json(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    body = orjson.dumps({one.name: _nested(one) for one in inputs})
    return Call("http", _torchserve_path(signature), body, JSON)


def _torchserve_path(signature: Signature) -> str:
    return f"/predictions/{signature.model}/{signature.version}"


def _torchserve_json_answer(signature: Signature, answer: Answer) -> dict[str, Array]:
    return _by_name(signature, orjson.loads(answer.body))


def _torchserve_grpc(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    message = torchserve_pb2.PredictionsRequest(model_name=signature.model, model_version=str(signature.version))
    for one in inputs:
        message.input[one.name] = orjson.dumps(_nested(one))
    method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
    return Call("grpc", method, message.SerializeToString(deterministic=True))


def _torchserve_grpc_answer(signature: Signature, answer: Answer) -> dict[str, Array]:
    message = torchserve_pb2.PredictionResponse.FromString(answer.body)
    return _by_name(signature, orjson.loads(message.prediction))


def _handler_binary(signature: Signature, inputs: Sequence[Tensor]) -> Call:
    """As the gateway itself calls TorchServe: the handler's binary tensors."""
    pieces, length = v2.encode_request(InferRequest(model=signature.model, inputs=tuple(inputs)))
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(length)}
    return Call("http", _torchserve_path(signature), b"".join(pieces), headers)


def _nested(tensor: Tensor) -> Any:
    if tensor.datatype == "BYTES":
        return np.vectorize(bytes.decode, otypes=[object])(tensor.data).tolist()
    return tensor.data.tolist()


def _by_name(signature: Signature, value: Any) -> dict[str, Array]:
    """Bare for a model with one output, by name for one with several."""
    names = [one.name for one in signature.outputs]
    values = value if len(names) > 1 else {names[0]: value}
    return {one.name: np.array(values[one.name], DATATYPES[one.datatype]) for one in signature.outputs}


FRONTS = {
    front.name: front
    for front in (
        Front("v2_rest_json", "Open Inference Protocol, REST, JSON", "http", _v2_json, _v2_answer),
        Front("v2_rest_binary", "Open Inference Protocol, REST, binary tensors", "http", _v2_binary, _v2_answer),
        Front("v2_grpc", "Open Inference Protocol, gRPC", "grpc", _v2_grpc, _v2_grpc_answer),
        Front("tfserving_rest", "TensorFlow Serving, REST", "http", _tfserving_json, _tfserving_json_answer),
        Front("tfserving_grpc", "TensorFlow Serving, gRPC", "grpc", _tfserving_grpc, _tfserving_grpc_answer),
        Front("torchserve_rest", "TorchServe, REST", "http", _torchserve_json, _torchserve_json_answer),
        Front("torchserve_grpc", "TorchServe, gRPC", "grpc", _torchserve_grpc, _torchserve_grpc_answer),
    )
}

#: The wire on which the gateway itself calls each kind of server: what a direct measurement uses.
DIRECT = {
    "tfserving": FRONTS["tfserving_grpc"],
    "torchserve": Front("torchserve_handler", "TorchServe, REST, binary tensors", "http", _handler_binary, _v2_answer),
}
