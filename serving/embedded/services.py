"""The gRPC services. What is not listed here answers UNIMPLEMENTED by gRPC itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import any_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.lifecycle import Lifecycle
from serving.embedded.predict import predict

SIGNATURE_FIELD = "signature_def"

log = logging.getLogger("serving.embedded")


class Services:
    def __init__(self, lifecycle: Lifecycle, *, as_content: bool) -> None:
        self._lifecycle = lifecycle
        self._as_content = as_content

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        status, metadata = get_model_status_pb2, get_model_metadata_pb2
        prediction = {
            "Predict": _unary(self.predict, predict_pb2.PredictRequest),
            "GetModelMetadata": _unary(self.metadata, metadata.GetModelMetadataRequest),
        }
        model = {"GetModelStatus": _unary(self.status, status.GetModelStatusRequest)}
        return [
            grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", prediction),
            grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", model),
        ]

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        answer = predict_pb2.PredictResponse()
        with self._lifecycle.serving(*_name(request), **_version(request.model_spec)) as (number, servable):
            answer.model_spec.name = request.model_spec.name
            answer.model_spec.version.value = number
            predict(servable, request, answer, as_content=self._as_content)
        return answer

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        name = _name(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for wanted in request.metadata_field:
            if wanted != SIGNATURE_FIELD:
                raise invalid_argument(f"Metadata field {wanted} is not supported")
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._lifecycle.serving(*name, **_version(request.model_spec)) as (number, servable):
            definitions = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
            answer.model_spec.name = request.model_spec.name
            answer.model_spec.version.value = number
            packed = any_pb2.Any()
            packed.Pack(definitions)
            answer.metadata[SIGNATURE_FIELD].CopyFrom(packed)
        return answer

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        (name,) = _name(request)
        spec = request.model_spec
        # A label is ignored here (get_model_status_impl.cc looks at has_version only).
        number = spec.version.value if spec.HasField("version") else None
        answer = get_model_status_pb2.GetModelStatusResponse()
        for found, version in self._lifecycle.status(name, number):
            entry = answer.model_version_status.add(version=found, state=version.state.value)
            if version.error:
                entry.status.error_code = grpc.StatusCode.UNKNOWN.value[0]
            entry.status.error_message = version.error
        return answer


def _name(request: Any) -> tuple[str]:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid_argument("ModelSpec has no name specified.")
    return (request.model_spec.name,)


def _version(spec: model_pb2.ModelSpec) -> dict[str, Any]:
    match spec.WhichOneof("version_choice"):
        case "version":
            return {"number": spec.version.value}
        case "version_label":
            return {"label": spec.version_label}
        case _:
            return {}


def _unary(behaviour: Callable[[Any], Any], request_type: Any) -> grpc.RpcMethodHandler:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
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
