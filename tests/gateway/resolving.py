"""A gateway in this process whose look-ups are counted, and each way to ask it for a prediction.

Version 1 and 2 of its model ``m`` double floats. Version 3 takes INT32 of the same width and trebles them: a body that
tells no datatype, such as bare bytes, means something else to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gateway import registry, router
from gateway.core.modelref import ModelRef
from gateway.protos import tfserving_pb2 as tf_pb
from gateway.protos import torchserve_pb2 as ts_pb
from gateway.protos import v2_pb2
from gateway.types import Target
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.transports import InProcess, run_in_loop

MODEL, VALUE = "m", 7
TWICE, THRICE = 14.0, 21.0
#: What is decoded in a process of its own here; and rows whose message is looked over before it is decoded (32 KiB).
_ASIDE_BYTES = 2048
ROWS = 9000
LABEL = "stable"
_CONFIG = f"""model_config_list {{ config {{
  name: "{MODEL}" base_path: "/m" model_platform: "tensorflow" version_labels {{ key: "{LABEL}" value: 1 }}
}} }}"""


class Refused(Exception):
    """An error of a front; ``code`` is HTTP's or gRPC's."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@dataclass
class World:
    gateway: InProcess
    port: int
    tensorflow: FakeTFServing
    pytorch: FakeTorchServe
    shown: dict[str, str]
    #: What was looked up, in order, and by which method of the router.
    lookups: list[tuple[str, ModelRef]] = field(default_factory=list)

    def resolved(self) -> list[ModelRef]:
        assert {kind for kind, _ in self.lookups} <= {"resolve"}
        return [ref for _, ref in self.lookups]

    def serve(self, *versions: int) -> None:
        """The servers have these versions from now on, which the gateway does not know yet."""
        self.tensorflow.models[MODEL] = list(versions)
        self.pytorch.models[MODEL] = [str(version) for version in reversed(versions)]
        self.tensorflow.labels[MODEL] = {LABEL: max(versions)}

    def know(self, *versions: int) -> None:
        """The servers have these versions, and the gateway knows it."""
        self.serve(*versions)
        for variant in ("tensorflow", "pytorch"):
            run_in_loop(self.gateway.gateway._registry.look(variant))
        self.lookups.clear()
        self.tensorflow.predicted.clear()
        self.pytorch.predicted.clear()

    def served(self) -> list[tuple[int, str]]:
        """The version and the datatype of each prediction that a server was asked for."""
        of_tensorflow = [
            (request.model_spec.version.value, "INT32" if tensor.dtype == tf_pb.DT_INT32 else "FP32")
            for request in self.tensorflow.predicted
            for tensor in request.inputs.values()
        ]
        of_pytorch = [
            (int(call["path"].rpartition("/")[2]), str(entry["datatype"]))
            for call in self.pytorch.predicted
            for entry in call["message"]["inputs"]
        ]
        return of_tensorflow + of_pytorch

    def post(self, path: str, content: bytes, variant: str | None, **headers: str) -> Any:
        pinned = {"x-duet-variant": variant} if variant else {}
        answer = self.gateway.client.post(path, content=content, headers={**self.shown, **pinned, **headers})
        if answer.status_code != 200:
            raise Refused(str(answer.status_code), answer.text)
        return answer

    def call(self, method: str, request: Any, answer: Any, variant: str | None) -> tuple[Any, str]:
        """The answer, and the version that gave it."""
        with self._channel() as channel:
            stub = channel.unary_unary(method, response_deserializer=answer.FromString)
            found, seen = stub.with_call(request.SerializeToString(), timeout=20, metadata=self._metadata(variant))
            return found, dict(seen.trailing_metadata())["x-duet-version"]

    def stream(self, method: str, requests: list[Any], answer: Any, variant: str | None) -> list[Any]:
        with self._channel() as channel:
            stub = channel.stream_stream(method, response_deserializer=answer.FromString)
            sent = iter([request.SerializeToString() for request in requests])
            return list(stub(sent, timeout=20, metadata=self._metadata(variant)))

    def _metadata(self, variant: str | None) -> tuple[tuple[str, str], ...]:
        return (*self.shown.items(), *((("x-duet-variant", variant),) if variant else ()))

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            try:
                yield channel
            except grpc.RpcError as error:
                raise Refused(error.code().name, error.details()) from error


@contextmanager
def world(
    folder: Path, auth: dict[str, Any], shown: dict[str, str], *, refresh_seconds: float = 3600
) -> Iterator[World]:
    tensorflow, pytorch = FakeTFServing({MODEL: [1]}), FakeTorchServe({MODEL: ["1"]})
    tensorflow.only_listed = pytorch.only_listed = True
    tensorflow.integer_versions, pytorch.integer_versions = frozenset({3}), frozenset({"3"})
    tensorflow.labels[MODEL] = {LABEL: 1}
    config = folder / "models.config"
    config.write_text(_CONFIG)
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint, "model_config_file": str(config)},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {MODEL: {}},
        "auth": auth,
        # The servers are asked only when a test says so, and nothing but the router tries again.
        "refresh_seconds": refresh_seconds,
        "retry": {"enabled": False},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_MIN_SECONDS_BETWEEN", 0.002)
        lookups = _counted(patch)
        gateway = InProcess(settings)
        gateway.gateway.aside.min_bytes = _ASIDE_BYTES
        try:
            made = World(gateway, run_in_loop(_listening(gateway)), tensorflow, pytorch, shown, lookups)
            made.know(1)
            yield made
        finally:
            run_in_loop(gateway.gateway.grpc_server.stop(None))
            assert gateway.stop() == 0
            tensorflow.close()
            pytorch.close()


async def _listening(gateway: InProcess) -> int:
    port = gateway.gateway.grpc_server.add_insecure_port("127.0.0.1:0")
    await gateway.gateway.grpc_server.start()
    return port


def _counted(patch: pytest.MonkeyPatch) -> list[tuple[str, ModelRef]]:
    """Every way to look a model up: there is no other than the router's two methods."""
    lookups: list[tuple[str, ModelRef]] = []
    resolve, describe = router.Router.resolve, router.Router.describe

    def counting_resolve(self: router.Router, ref: ModelRef) -> Target:
        lookups.append(("resolve", ref))
        return resolve(self, ref)

    def counting_describe(self: router.Router, ref: ModelRef) -> Any:
        lookups.append(("describe", ref))
        return describe(self, ref)

    patch.setattr(router.Router, "resolve", counting_resolve)
    patch.setattr(router.Router, "describe", counting_describe)
    return lookups


@dataclass(frozen=True)
class Answered:
    """``values`` of all requests that were sent; ``versions`` that answered, as far as the front tells."""

    values: list[float]
    versions: set[int]


Ask = Callable[[World, str | None, str], Answered]


@dataclass(frozen=True)
class Way:
    """``requests`` it makes of the gateway. ``decodes`` a body that tells no datatype, by the model's signature.

    ``examples``: it classifies or regresses, which TensorFlow's versions of the fake can alone. ``lets_go`` of the body
    once that is decoded, since it is large.
    """

    ask: Ask
    requests: int = 1
    decodes: bool = False
    examples: bool = False
    lets_go: bool = False


def _of(answer: Any, values: list[float]) -> Answered:
    return Answered(values, {int(answer.headers["x-duet-version"])})


def _x(count: int = 1, **parameters: Any) -> dict[str, Any]:
    entry = {"name": "x", "shape": [count, 1], "datatype": "FP32", "data": [VALUE] * count}
    return {"inputs": [entry], "parameters": parameters}


def v2_json(count: int = 1, **parameters: Any) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        answer = world.post(f"/v2/models/{model}/infer", json.dumps(_x(count, **parameters)).encode(), variant)
        return _of(answer, answer.json()["outputs"][0]["data"][:1])

    return ask


def v2_binary(world: World, variant: str | None, model: str) -> Answered:
    document = json.dumps(
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]}
    ).encode()
    headers = {"inference-header-content-length": str(len(document))}
    body = document + np.float32(VALUE).tobytes()
    answer = world.post(f"/v2/models/{model}/infer", body, variant, **headers)
    return _of(answer, answer.json()["outputs"][0]["data"])


def v2_raw(world: World, variant: str | None, model: str) -> Answered:
    """The integer's bits are a float too, of which the double has the bits of the integer's double."""
    headers = {"inference-header-content-length": "0"}
    answer = world.post(f"/v2/models/{model}/infer", np.int32(VALUE).tobytes(), variant, **headers)
    return _of(answer, [float(np.frombuffer(answer.content[-4:], np.int32)[0])])


def tf_rows(count: int = 1) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        body = json.dumps({"instances": [[VALUE]] * count}).encode()
        answer = world.post(f"/v1/models/{model}:predict", body, variant)
        return _of(answer, answer.json()["predictions"][0])

    return ask


def tf_columns(world: World, variant: str | None, model: str) -> Answered:
    answer = world.post(f"/v1/models/{model}:predict", json.dumps({"inputs": {"x": [[VALUE]]}}).encode(), variant)
    return _of(answer, answer.json()["outputs"][0])


def tf_examples(verb: str, count: int = 1) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        body = json.dumps({"signature_name": verb, "examples": [{"x": float(VALUE)}] * count}).encode()
        answer = world.post(f"/v1/models/{model}:{verb}", body, variant)
        (first, *_) = answer.json()["results"]
        return _of(answer, [first] if verb == "regress" else [2 * first[0][1]])

    return ask


def ts_body(body: bytes, kind: str, *, raw: bool = False, of_v2: bool = False) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        headers = {"content-type": kind, **({"accept": kind} if raw else {})}
        answer = world.post(f"/predictions/{model}", body, variant, **headers)
        if raw:
            return _of(answer, [float(np.frombuffer(answer.content, np.int32)[0])])
        value = answer.json()
        return _of(answer, value["outputs"][0]["data"] if of_v2 else value[0])

    return ask


_MULTIPART = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n[[7]]\r\n--b--\r\n'


def _infer(model: str, count: int = 1) -> v2_pb2.ModelInferRequest:
    x = v2_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[count, 1])
    raw = np.full(count, VALUE, np.float32).tobytes()
    return v2_pb2.ModelInferRequest(model_name=model, inputs=[x], raw_input_contents=[raw])


def _of_v2(answer: v2_pb2.ModelInferResponse) -> float:
    return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])


def v2_grpc(count: int = 1) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        method = "/inference.GRPCInferenceService/ModelInfer"
        answer, version = world.call(method, _infer(model, count), v2_pb2.ModelInferResponse, variant)
        return Answered([_of_v2(answer)], {int(version)})

    return ask


def v2_stream(count: int) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        method, requests = "/inference.GRPCInferenceService/ModelStreamInfer", [_infer(model)] * count
        answers = world.stream(method, requests, v2_pb2.ModelStreamInferResponse, variant)
        for answer in answers:
            if answer.error_message:
                raise Refused("INVALID_ARGUMENT", answer.error_message)
        found = [answer.infer_response for answer in answers]
        return Answered([_of_v2(one) for one in found], {int(one.model_version) for one in found})

    return ask


_TF = "/tensorflow.serving.PredictionService/"


def _spec(model: str, signature: str = "") -> tf_pb.ModelSpec:
    """``model/labels/LABEL`` names a label here too."""
    name, _, label = model.partition("/labels/")
    return tf_pb.ModelSpec(name=name, version_label=label, signature_name=signature)


def tf_predict(world: World, variant: str | None, model: str) -> Answered:
    one = tf_pb.TensorShapeProto.Dim(size=1)
    shape = tf_pb.TensorShapeProto(dim=[one, one])
    x = tf_pb.TensorProto(dtype=tf_pb.DT_FLOAT, tensor_shape=shape, float_val=[VALUE])
    request = tf_pb.PredictRequest(model_spec=_spec(model), inputs={"x": x})
    answer, version = world.call(f"{_TF}Predict", request, tf_pb.PredictResponse, variant)
    assert answer.model_spec.version.value == int(version)
    return Answered(list(answer.outputs["y"].float_val), {int(version)})


def _input() -> tf_pb.Input:
    feature = tf_pb.Feature(float_list=tf_pb.FloatList(value=[VALUE]))
    example = tf_pb.Example(features=tf_pb.Features(feature={"x": feature})).SerializeToString()
    return tf_pb.Input(example_list=tf_pb.ExampleList(examples=[example]))


def tf_classify(world: World, variant: str | None, model: str) -> Answered:
    request = tf_pb.ClassificationRequest(model_spec=_spec(model, "classify"), input=_input())
    answer, version = world.call(f"{_TF}Classify", request, tf_pb.ClassificationResponse, variant)
    return Answered([2 * answer.result.classifications[0].classes[0].score], {int(version)})


def tf_regress(world: World, variant: str | None, model: str) -> Answered:
    request = tf_pb.RegressionRequest(model_spec=_spec(model, "regress"), input=_input())
    answer, version = world.call(f"{_TF}Regress", request, tf_pb.RegressionResponse, variant)
    return Answered([answer.result.regressions[0].value], {int(version)})


def tf_multi(world: World, variant: str | None, model: str) -> Answered:
    tasks = [
        tf_pb.InferenceTask(model_spec=_spec(model, verb), method_name=f"tensorflow/serving/{verb}")
        for verb in ("classify", "regress")
    ]
    request = tf_pb.MultiInferenceRequest(tasks=tasks, input=_input())
    answer, version = world.call(f"{_TF}MultiInference", request, tf_pb.MultiInferenceResponse, variant)
    first, second = answer.results
    values = [2 * first.classification_result.classifications[0].classes[0].score]
    return Answered([*values, second.regression_result.regressions[0].value], {int(version)})


_TS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"


def _predictions(model: str, count: int = 1) -> ts_pb.PredictionsRequest:
    return ts_pb.PredictionsRequest(model_name=model, input={"x": json.dumps([[VALUE]] * count).encode()})


def ts_predict(count: int = 1) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        request = _predictions(model, count)
        answer, version = world.call(f"{_TS}Predictions", request, ts_pb.PredictionResponse, variant)
        return Answered(json.loads(answer.prediction)[0], {int(version)})

    return ask


def ts_stream(count: int) -> Ask:
    def ask(world: World, variant: str | None, model: str) -> Answered:
        requests = [_predictions(model)] * count
        answers = world.stream(f"{_TS}StreamPredictions2", requests, ts_pb.PredictionResponse, variant)
        return Answered([json.loads(answer.prediction)[0][0] for answer in answers], set())

    return ask


_JSON, _OCTETS = "application/json", "application/octet-stream"

WAYS: dict[str, Way] = {
    "v2 REST": Way(v2_json()),
    "v2 REST, large": Way(v2_json(ROWS)),
    "v2 REST, binary": Way(v2_binary),
    "v2 REST, raw": Way(v2_raw, decodes=True),
    "v2 gRPC": Way(v2_grpc()),
    "v2 gRPC, large": Way(v2_grpc(ROWS)),
    "v2 gRPC, stream": Way(v2_stream(2), 2),
    "TF Serving REST, rows": Way(tf_rows(), decodes=True),
    "TF Serving REST, large": Way(tf_rows(ROWS), lets_go=True),
    "TF Serving REST, columns": Way(tf_columns, decodes=True),
    "TF Serving REST, classify": Way(tf_examples("classify"), examples=True),
    "TF Serving REST, regress": Way(tf_examples("regress"), examples=True),
    "TF Serving REST, large examples": Way(tf_examples("regress", 200), examples=True),
    "TF Serving gRPC": Way(tf_predict),
    "TF Serving gRPC, classify": Way(tf_classify, examples=True),
    "TF Serving gRPC, regress": Way(tf_regress, examples=True),
    "TF Serving gRPC, both": Way(tf_multi, 2, examples=True),
    "TorchServe REST": Way(ts_body(b"[[7]]", _JSON), decodes=True),
    "TorchServe REST, large": Way(ts_body(json.dumps([[VALUE]] * ROWS).encode(), _JSON), lets_go=True),
    "TorchServe REST, raw": Way(ts_body(np.int32(VALUE).tobytes(), _OCTETS, raw=True), decodes=True),
    "TorchServe REST, multipart": Way(ts_body(_MULTIPART, "multipart/form-data; boundary=b"), decodes=True),
    "TorchServe REST, v2's body": Way(ts_body(json.dumps(_x()).encode(), _JSON, of_v2=True)),
    "TorchServe gRPC": Way(ts_predict(), decodes=True),
    "TorchServe gRPC, large": Way(ts_predict(ROWS), decodes=True),
    "TorchServe gRPC, stream": Way(ts_stream(2), 2, decodes=True),
}
#: The same with one request each, where the number depends on when each is read.
SWAPPED: dict[str, Way] = {
    **{name: way for name, way in WAYS.items() if way.requests == 1},
    "v2 gRPC, stream": Way(v2_stream(1)),
    "TorchServe gRPC, stream": Way(ts_stream(1), decodes=True),
}
#: Those that can name a label.
LABELLED: dict[str, Way] = {name: way for name, way in SWAPPED.items() if name.startswith("TF Serving")}
