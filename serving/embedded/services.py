"""The gRPC services. What is not listed here answers UNIMPLEMENTED by gRPC itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded.calls import Calls
from serving.embedded.errors import ServingError, not_found
from serving.embedded.metrics import Metrics

HEALTHY_SERVICES = frozenset({"", "ModelService", "PredictionService"})
#: HealthCheckResponse.ServingStatus.SERVING
SERVING = 1

log = logging.getLogger("serving.embedded")


def handlers(calls: Calls, metrics: Metrics) -> list[grpc.GenericRpcHandler]:
    prediction = {
        "Predict": (calls.predict, predict_pb2.PredictRequest),
        "Classify": (calls.classify, classification_pb2.ClassificationRequest),
        "Regress": (calls.regress, regression_pb2.RegressionRequest),
        "MultiInference": (calls.multi_inference, inference_pb2.MultiInferenceRequest),
    }
    methods = {name: _unary(_timed(metrics, name, call), kind) for name, (call, kind) in prediction.items()}
    methods["GetModelMetadata"] = _unary(calls.metadata, get_model_metadata_pb2.GetModelMetadataRequest)
    model = {
        "GetModelStatus": _unary(calls.status, get_model_status_pb2.GetModelStatusRequest),
        "HandleReloadConfigRequest": _unary(calls.reload, model_management_pb2.ReloadConfigRequest),
    }
    return [
        grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods),
        grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model),
    ]


def health() -> grpc.GenericRpcHandler:
    """``grpc.health.v1`` Check: it answers once the ports are open, and they open once every model serves.

    Watch is left out: it would hold a thread of the pool for as long as a client likes.
    """
    # The messages of health.proto have one field each, of the same number and type as these.
    check = _unary(_check_health, wrappers_pb2.StringValue)
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})


def _check_health(request: wrappers_pb2.StringValue) -> wrappers_pb2.Int32Value:
    if request.value not in HEALTHY_SERVICES:
        raise not_found("")
    return wrappers_pb2.Int32Value(value=SERVING)


def _timed(metrics: Metrics, api: str, behaviour: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def timed(request: Any) -> Any:
        spec = request.tasks[0].model_spec if api == "MultiInference" and request.tasks else None
        name = spec.name if spec else "" if api == "MultiInference" else request.model_spec.name
        with metrics.observe(name, api, "GRPC"):
            return behaviour(request)

    return timed


def _unary(behaviour: Callable[[Any], Any], request_type: Any) -> grpc.RpcMethodHandler:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if not context.is_active():
            return None  # gone while it waited for a thread: nobody would read the answer
        try:
            return behaviour(request)
        except ServingError as error:
            code, message = error.code, error.message
        except Exception:
            log.exception("a call failed")
            code, message = grpc.StatusCode.INTERNAL, "the server failed on this request"
        return context.abort(code, message)  # raises

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request_type.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
