"""The gRPC services. What is not listed here answers UNIMPLEMENTED by gRPC itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded.budget import FREE_BYTES, Budget, Claim, Crowded
from serving.embedded.calls import Calls
from serving.embedded.errors import ServingError
from serving.embedded.metrics import Metrics
from serving.embedded.receiving import arrived

#: A call without a deadline has an infinite one.
_ENDLESS_SECONDS = 1e6
Behaviour = Callable[[Any, grpc.ServicerContext], Any]
#: All messages together that were received and not answered, or answered and not taken by their client.
MAX_HELD_BYTES = 1 << 30

log = logging.getLogger("serving.embedded")


def handlers(calls: Calls, metrics: Metrics) -> list[grpc.GenericRpcHandler]:
    prediction = {
        "Predict": (calls.predict, predict_pb2.PredictRequest),
        "Classify": (calls.classify, classification_pb2.ClassificationRequest),
        "Regress": (calls.regress, regression_pb2.RegressionRequest),
        "MultiInference": (calls.multi_inference, inference_pb2.MultiInferenceRequest),
    }
    methods = {name: _unary(_timed(metrics, name, call), kind) for name, (call, kind) in prediction.items()}
    methods["GetModelMetadata"] = _unary(_plain(calls.metadata), get_model_metadata_pb2.GetModelMetadataRequest)
    model = {
        "GetModelStatus": _unary(_plain(calls.status), get_model_status_pb2.GetModelStatusRequest),
        "HandleReloadConfigRequest": _unary(_plain(calls.reload), model_management_pb2.ReloadConfigRequest),
    }
    return [
        grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods),
        grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model),
    ]


def _timed(metrics: Metrics, api: str, behaviour: Callable[[Any, Any], Any]) -> Behaviour:
    def timed(request: Any, context: grpc.ServicerContext) -> Any:
        spec = request.tasks[0].model_spec if api == "MultiInference" and request.tasks else None
        name = spec.name if spec else "" if api == "MultiInference" else request.model_spec.name
        with metrics.observe(name, api, "GRPC"):
            return behaviour(request, _deadline(context))

    return timed


def _plain(behaviour: Callable[[Any], Any]) -> Behaviour:
    return lambda request, context: behaviour(request)


def _deadline(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _ENDLESS_SECONDS else time.monotonic() + remaining


_held = Budget(MAX_HELD_BYTES)


def _claimed(size: int, context: grpc.ServicerContext) -> Claim:
    """Held until the call has ended. Raises Crowded."""
    claim = _held.claim()
    if context.add_callback(claim.release):
        claim.add(size)
    return claim


def _unary(behaviour: Behaviour, request_type: Any) -> grpc.RpcMethodHandler:
    def answer(received: tuple[Any, int], context: grpc.ServicerContext) -> Any:
        arrived()
        request, size = received
        if not context.is_active():
            return None  # gone while it waited for a thread: nobody would read the answer
        try:
            claim = _claimed(size, context) if size > FREE_BYTES else None
            content = behaviour(request, context).SerializeToString()
            if claim:
                claim.add(len(content))
            elif len(content) > FREE_BYTES:
                _claimed(len(content), context)
            return content
        except ServingError as error:
            code, message = error.code, error.message
        except Crowded as error:
            code, message = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        except Exception:
            log.exception("a call failed")
            code, message = grpc.StatusCode.INTERNAL, "the server failed on this request"
        return context.abort(code, message)  # raises

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=lambda content: (request_type.FromString(content), len(content)),
        response_serializer=None,
    )
