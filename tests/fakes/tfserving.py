"""A TensorFlow Serving that doubles: y = 2x, for every model that it was given, with scripted faults."""

from __future__ import annotations

import time
from concurrent import futures
from typing import Any

import grpc

from gateway.protos import tfserving_pb2 as pb


class FakeTFServing:
    """Serves ``models`` (name -> versions) on a port of its own. Its faults are read at each call."""

    def __init__(self, models: dict[str, list[int]], *, port: int = 0) -> None:
        self.models = models
        self.delay_seconds = 0.0
        self.garbage = False
        self.predicted: list[pb.PredictRequest] = []
        self.timeouts: list[float | None] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([_services(self)])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
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
        answer = pb.PredictResponse(model_spec=request.model_spec)
        x, y = request.inputs["x"], answer.outputs["y"]
        y.dtype = x.dtype
        y.tensor_shape.CopyFrom(x.tensor_shape)
        if self.garbage:
            y.tensor_content = b"abc"
            return answer
        values = memoryview(x.tensor_content).cast("f")
        y.float_val.extend(2 * value for value in values)
        return answer

    def status(self, request: pb.GetModelStatusRequest, context: grpc.ServicerContext) -> pb.GetModelStatusResponse:
        versions = self.models.get(request.model_spec.name)
        if versions is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        answer = pb.GetModelStatusResponse()
        for version in versions:
            answer.model_version_status.add(version=version, state=pb.ModelVersionStatus.AVAILABLE)
        return answer

    def metadata(self, request: pb.GetModelMetadataRequest, _: grpc.ServicerContext) -> pb.GetModelMetadataResponse:
        shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=-1), pb.TensorShapeProto.Dim(size=1)])
        info = pb.TensorInfo(name="t:0", dtype=pb.DT_FLOAT, tensor_shape=shape)
        definition = pb.SignatureDef(inputs={"x": info}, outputs={"y": info})
        definitions = pb.SignatureDefMap(signature_def={"serving_default": definition})
        value = pb.Any(value=definitions.SerializeToString())
        return pb.GetModelMetadataResponse(model_spec=request.model_spec, metadata={"signature_def": value})


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
            return grpc.unary_unary_rpc_method_handler(
                behaviour, request_deserializer=message.FromString, response_serializer=lambda m: m.SerializeToString()
            )

    return Handler()
