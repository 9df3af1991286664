"""Keys for tests, and one way to make each call of each front: who shows what, which model, what came of it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import grpc
import httpx

from gateway.protos import tfserving_pb2 as tf_pb
from gateway.protos import torchserve_pb2 as ts_pb
from gateway.protos import v2_pb2
from gateway.security.access import Quota
from gateway.security.grants import Grants
from gateway.security.keyfile import Entry, changing
from gateway.security.keys import digest, new_key
from tests.gateway.conftest import RunningGateway

PEPPER = b"a pepper of thirty-two bytes here"


@dataclass(frozen=True)
class KeyFolder:
    """A key file and its pepper; `settings` are the gateway's ``auth``."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "keys.json"

    @property
    def pepper(self) -> Path:
        path = self.folder / "pepper"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(PEPPER)
        return path

    @property
    def settings(self) -> dict[str, Any]:
        return {"keys": {"file": str(self.file), "pepper": str(self.pepper)}}

    def make(
        self, name: str, *grants: str, quota: Quota | None = None, days: float | None = None, revoked: bool = False
    ) -> str:
        key_id, key = new_key()
        now = time()
        with changing(self.file) as entries:
            entries[key_id] = Entry(
                key_id,
                name,
                digest(PEPPER, key.encode()),
                Grants(grants),
                quota,
                now,
                None if days is None else now + days * 86_400,
                now if revoked else None,
            )
        return key


def forged() -> str:
    return f"gw_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


@dataclass(frozen=True)
class Outcome:
    """``code`` is HTTP's status or gRPC's name. ``text`` and ``headers`` are all that the caller can see."""

    code: int | str
    text: str
    headers: dict[str, str]


Shown = dict[str, str]
Call = Callable[[RunningGateway, str, Shown], Outcome]

_JSON = {"content-type": "application/json"}
_INPUTS = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}
_EXAMPLES = {"signature_name": "classify", "examples": [{}]}
_V2 = "/inference.GRPCInferenceService/"
_TF_PREDICTION, _TF_MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
_TS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
#: They differ from one answer to the next, whatever was asked.
_PASSING = {"date", "x-request-id", "traceparent", "server-timing"}


def rest(method: str, path: str, body: object = None) -> Call:
    def call(gateway: RunningGateway, model: str, shown: Shown) -> Outcome:
        content = None if body is None else json.dumps(body)
        answer: httpx.Response = gateway.client.request(
            method, path.format(model), content=content, headers={**_JSON, **shown}
        )
        return Outcome(answer.status_code, answer.text, _lasting(answer.headers.items()))

    return call


def rpc(method: str, message: Callable[[str], Any], *, stream: bool = False) -> Call:
    """The answer as bytes: what matters is whether there is one."""

    def call(gateway: RunningGateway, model: str, shown: Shown) -> Outcome:
        metadata = tuple(shown.items())
        with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
            request = message(model).SerializeToString()
            try:
                if stream:
                    streamed = channel.stream_stream(method)(iter([request]), timeout=20, metadata=metadata)
                    text = b"".join(streamed)
                    return Outcome("OK", text.decode("latin-1"), _lasting(streamed.trailing_metadata()))
                answer, seen = channel.unary_unary(method).with_call(request, timeout=20, metadata=metadata)
                return Outcome("OK", answer.decode("latin-1"), _lasting(seen.trailing_metadata()))
            except grpc.RpcError as error:
                return Outcome(error.code().name, error.details(), _lasting(error.trailing_metadata()))

    return call


def _lasting(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers if str(name).lower() not in _PASSING}


def infer(model: str) -> v2_pb2.ModelInferRequest:
    contents = v2_pb2.InferTensorContents(fp32_contents=[1.0])
    x = v2_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1], contents=contents)
    return v2_pb2.ModelInferRequest(model_name=model, inputs=[x])


def predict(model: str) -> tf_pb.PredictRequest:
    one = tf_pb.TensorShapeProto.Dim(size=1)
    x = tf_pb.TensorProto(dtype=tf_pb.DT_FLOAT, tensor_shape=tf_pb.TensorShapeProto(dim=[one, one]), float_val=[1.0])
    return tf_pb.PredictRequest(model_spec=tf_pb.ModelSpec(name=model), inputs={"x": x})


def classify(model: str) -> tf_pb.ClassificationRequest:
    examples = tf_pb.Input(example_list=tf_pb.ExampleList(examples=[tf_pb.Example().SerializeToString()]))
    spec = tf_pb.ModelSpec(name=model, signature_name="classify")
    return tf_pb.ClassificationRequest(model_spec=spec, input=examples)


def predictions(model: str) -> ts_pb.PredictionsRequest:
    return ts_pb.PredictionsRequest(model_name=model, input={"x": b"[[1.0]]"})


def loading(model: str) -> v2_pb2.RepositoryModelRequest:
    return v2_pb2.RepositoryModelRequest(model_name=model)


def reloading(_: str) -> tf_pb.ReloadConfigRequest:
    return tf_pb.ReloadConfigRequest()


def described(model: str) -> tf_pb.GetModelMetadataRequest:
    return tf_pb.GetModelMetadataRequest(model_spec=tf_pb.ModelSpec(name=model), metadata_field=["signature_def"])


def status(model: str) -> tf_pb.GetModelStatusRequest:
    return tf_pb.GetModelStatusRequest(model_spec=tf_pb.ModelSpec(name=model))


#: What every front can be asked about a model, by verb.
PREDICT: dict[str, Call] = {
    "v2 REST": rest("POST", "/v2/models/{}/infer", _INPUTS),
    "v2 REST, a version": rest("POST", "/v2/models/{}/versions/1/infer", _INPUTS),
    "v2 gRPC": rpc(f"{_V2}ModelInfer", infer),
    "TF Serving REST": rest("POST", "/v1/models/{}:predict", {"instances": [[1.0]]}),
    "TF Serving REST, classify": rest("POST", "/v1/models/{}:classify", _EXAMPLES),
    "TF Serving gRPC": rpc(f"{_TF_PREDICTION}Predict", predict),
    "TF Serving gRPC, classify": rpc(f"{_TF_PREDICTION}Classify", classify),
    "TorchServe REST": rest("POST", "/predictions/{}", {"x": [[1.0]]}),
    "TorchServe REST, put": rest("PUT", "/predictions/{}", {"x": [[1.0]]}),
    "TorchServe gRPC": rpc(f"{_TS}Predictions", predictions),
    "TorchServe gRPC, one answer": rpc(f"{_TS}StreamPredictions", predictions),
}
METADATA: dict[str, Call] = {
    "v2 REST": rest("GET", "/v2/models/{}"),
    "v2 REST, ready": rest("GET", "/v2/models/{}/ready"),
    "v2 REST, config": rest("GET", "/v2/models/{}/config"),
    "v2 REST, statistics": rest("GET", "/v2/models/{}/stats"),
    "v2 gRPC": rpc(f"{_V2}ModelMetadata", lambda model: v2_pb2.ModelMetadataRequest(name=model)),
    "v2 gRPC, config": rpc(f"{_V2}ModelConfig", lambda model: v2_pb2.ModelConfigRequest(name=model)),
    "v2 gRPC, statistics": rpc(f"{_V2}ModelStatistics", lambda model: v2_pb2.ModelStatisticsRequest(name=model)),
    "TF Serving REST, status": rest("GET", "/v1/models/{}"),
    "TF Serving REST, metadata": rest("GET", "/v1/models/{}/metadata"),
    "TF Serving gRPC, status": rpc(f"{_TF_MODEL}GetModelStatus", status),
    "TF Serving gRPC, metadata": rpc(f"{_TF_PREDICTION}GetModelMetadata", described),
    "TorchServe REST, description": rest("OPTIONS", "/predictions/{}"),
}
#: What clients of these servers know and nobody may do through here: it is not there.
MANAGEMENT: dict[str, Call] = {
    "v2 REST, load": rest("POST", "/v2/repository/models/{}/load", {}),
    "v2 REST, unload": rest("POST", "/v2/repository/models/{}/unload", {}),
    "v2 gRPC, load": rpc(f"{_V2}RepositoryModelLoad", loading),
    "v2 gRPC, unload": rpc(f"{_V2}RepositoryModelUnload", loading),
    "TF Serving gRPC, reload": rpc(f"{_TF_MODEL}HandleReloadConfigRequest", reloading),
}
STREAMS: dict[str, Call] = {
    "v2 gRPC, stream": rpc(f"{_V2}ModelStreamInfer", infer, stream=True),
    "TorchServe gRPC, stream": rpc(f"{_TS}StreamPredictions2", predictions, stream=True),
}
ALLOWED = {200, "OK"}
NOT_THERE = {404, "UNIMPLEMENTED"}
UNKNOWN_MODEL = {404, "NOT_FOUND"}
NOT_LET_IN = {401, "UNAUTHENTICATED"}
CALLS: dict[str, dict[str, Call]] = {"predict": PREDICT, "metadata": METADATA}
