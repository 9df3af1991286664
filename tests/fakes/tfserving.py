"""A TensorFlow Serving that doubles: y = 2x, for every model that it was given, with scripted faults.

The model ``pair`` has two inputs, ``query`` and ``candidates``: y is each candidate times the query, summed up.

It also classifies and regresses examples of one float feature, ``x``: the scores of the classes `CLASSES` are x and
1 - x, the regression's value is 2x. Examples without it count as x = 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

from gateway.protos import tfserving_pb2 as pb

CLASSES = (b"yes", b"no")


class FakeTFServing:
    """Serves ``models`` (name -> versions) on a port of its own. Its faults are read at each call."""

    def __init__(
        self, models: dict[str, list[int]], *, port: int = 0, tls: grpc.ServerCredentials | None = None
    ) -> None:
        self.models = models
        self.delay_seconds = 0.0
        self.garbage = False
        self.failure: tuple[grpc.StatusCode, str] | None = None
        #: What single requests meet: a failure, an answer, or None for the right one.
        self.poison: Callable[[pb.PredictRequest], tuple[grpc.StatusCode, str] | pb.PredictResponse | None]
        self.poison = lambda request: None
        #: What a prediction's answer is on the wire, in place of a message.
        self.raw_answer: bytes | None = None
        self.predicted: list[pb.PredictRequest] = []
        #: The models that were asked about.
        self.described: list[str] = []
        self.timeouts: list[float | None] = []
        #: What Duet's own server reports as an artifact's description; TensorFlow's knows no such field.
        self.duet: bytes | None = None
        #: Labels of each model; no version that a label stands for need be listed.
        self.labels: dict[str, dict[str, int]] = {}
        #: Whether versions that are not listed are refused in TensorFlow Serving's words.
        self.only_listed = False
        #: Versions of which x and y are INT32, y = 3x, and which take no examples.
        self.integer_versions: frozenset[int] = frozenset()
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([_services(self)])
        address = f"127.0.0.1:{port}"
        self.port = self._server.add_secure_port(address, tls) if tls else self._server.add_insecure_port(address)
        self._server.start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.stop(None).wait()

    def predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        self.predicted.append(request)
        self.timeouts.append(context.time_remaining())
        time.sleep(self.delay_seconds)
        name, version = request.model_spec.name, request.model_spec.version.value
        if self.only_listed and version not in self.models[name]:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Specific({name}, {version})")
        met = self.poison(request)
        if isinstance(met, pb.PredictResponse):
            return met
        if failure := met or self.failure:
            context.abort(*failure)
        answer = pb.PredictResponse(model_spec=request.model_spec)
        if "inputs" in request.inputs:
            _examine(request, answer)
            return answer
        if "query" in request.inputs:
            try:
                _score(request, answer)
            except ValueError:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Incompatible shapes: [2,2] vs. [3,2]")
            return answer
        x, y = request.inputs["x"], answer.outputs["y"]
        y.dtype = x.dtype
        y.tensor_shape.CopyFrom(x.tensor_shape)
        if self.garbage:
            y.tensor_content = b"abc"
            return answer
        if version in self.integer_versions:
            y.int_val.extend(3 * value for value in memoryview(x.tensor_content).cast("i"))
            return answer
        values = memoryview(x.tensor_content).cast("f")
        y.float_val.extend(2 * value for value in values)
        return answer

    def status(self, request: pb.GetModelStatusRequest, context: grpc.ServicerContext) -> pb.GetModelStatusResponse:
        self.described.append(request.model_spec.name)
        versions = self.models.get(request.model_spec.name)
        if versions is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        answer = pb.GetModelStatusResponse()
        for version in versions:
            answer.model_version_status.add(version=version, state=pb.ModelVersionStatus.AVAILABLE)
        return answer

    def metadata(
        self, request: pb.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.GetModelMetadataResponse:
        if list(request.metadata_field) == ["duet"]:
            if self.duet is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Metadata field duet is not supported")
            described = pb.Any(
                type_url="type.googleapis.com/google.protobuf.BytesValue",
                value=BytesValue(value=self.duet).SerializeToString(),
            )
            return pb.GetModelMetadataResponse(model_spec=request.model_spec, metadata={"duet": described})
        spec = pb.ModelSpec.FromString(request.model_spec.SerializeToString())
        if spec.version_label:
            version = self.labels.get(spec.name, {}).get(spec.version_label)
            if version not in self.models[spec.name]:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label")
            spec.version.value = version
        if spec.version.value in self.integer_versions:
            integer = _info(1, pb.DT_INT32)
            return _described(spec, {"serving_default": _predicting({"x": integer}, integer)})
        info, pair = _info(1), {"query": _info(2), "candidates": _info(2)}
        inputs = pair if spec.name == "pair" else {"x": info}
        return _described(spec, {"serving_default": _predicting(inputs, info), **_of_examples()})


def _described(spec: pb.ModelSpec, signatures: dict[str, pb.SignatureDef]) -> pb.GetModelMetadataResponse:
    value = pb.Any(value=pb.SignatureDefMap(signature_def=signatures).SerializeToString())
    return pb.GetModelMetadataResponse(model_spec=spec, metadata={"signature_def": value})


def _predicting(inputs: dict[str, pb.TensorInfo], output: pb.TensorInfo) -> pb.SignatureDef:
    return pb.SignatureDef(inputs=inputs, outputs={"y": output}, method_name="tensorflow/serving/predict")


def _info(width: int, dtype: pb.DataType = pb.DT_FLOAT) -> pb.TensorInfo:
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=-1), pb.TensorShapeProto.Dim(size=width)])
    return pb.TensorInfo(name="t:0", dtype=dtype, tensor_shape=shape)


def _score(request: pb.PredictRequest, answer: pb.PredictResponse) -> None:
    query, candidates = (
        np.frombuffer(request.inputs[name].tensor_content, np.float32).reshape(-1, 2)
        for name in ("query", "candidates")
    )
    scores = (query * candidates).sum(axis=1)
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=len(scores)), pb.TensorShapeProto.Dim(size=1)])
    answer.outputs["y"].CopyFrom(pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=scores.tolist()))


def _of_examples() -> dict[str, pb.SignatureDef]:
    any_size = pb.TensorShapeProto.Dim(size=-1)
    two = pb.TensorShapeProto.Dim(size=2)

    def info(dtype: pb.DataType, *dims: pb.TensorShapeProto.Dim) -> pb.TensorInfo:
        return pb.TensorInfo(name="t:0", dtype=dtype, tensor_shape=pb.TensorShapeProto(dim=[any_size, *dims]))

    inputs = {"inputs": info(pb.DT_STRING)}
    classes = {"classes": info(pb.DT_STRING, two), "scores": info(pb.DT_FLOAT, two)}
    values = {"outputs": info(pb.DT_FLOAT)}
    return {
        "classify": pb.SignatureDef(inputs=inputs, outputs=classes, method_name="tensorflow/serving/classify"),
        "regress": pb.SignatureDef(inputs=inputs, outputs=values, method_name="tensorflow/serving/regress"),
    }


def _examine(request: pb.PredictRequest, answer: pb.PredictResponse) -> None:
    given = [pb.Example.FromString(item).features.feature["x"] for item in request.inputs["inputs"].string_val]
    values = [feature.float_list.value[0] if feature.float_list.value else 0.0 for feature in given]
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=len(values))])
    if request.model_spec.signature_name == "regress":
        doubled = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=[2 * value for value in values])
        answer.outputs["outputs"].CopyFrom(doubled)
        return
    shape.dim.add(size=2)
    scores = [score for value in values for score in (value, 1 - value)]
    answer.outputs["scores"].CopyFrom(pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=scores))
    labels = [*CLASSES] * len(values)
    answer.outputs["classes"].CopyFrom(pb.TensorProto(dtype=pb.DT_STRING, tensor_shape=shape, string_val=labels))


def _services(fake: FakeTFServing) -> grpc.GenericRpcHandler:
    methods: dict[str, Any] = {
        "/tensorflow.serving.PredictionService/Predict": (fake.predict, pb.PredictRequest),
        "/tensorflow.serving.PredictionService/GetModelMetadata": (fake.metadata, pb.GetModelMetadataRequest),
        "/tensorflow.serving.ModelService/GetModelStatus": (fake.status, pb.GetModelStatusRequest),
    }

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            if details.method not in methods:
                return None
            behaviour, message = methods[details.method]

            def serialized(answer: Any) -> bytes:
                raw = fake.raw_answer if isinstance(answer, pb.PredictResponse) else None
                return answer.SerializeToString() if raw is None else raw

            return grpc.unary_unary_rpc_method_handler(
                behaviour, request_deserializer=message.FromString, response_serializer=serialized
            )

    return Handler()
