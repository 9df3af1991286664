"""TorchServe's inference API over gRPC.

Source: serve ``frontend/server/src/main/resources/proto/inference.proto``. Every input is bytes: JSON, ``.npy``, raw
bytes, or text for BYTES; an answer is what REST answers as JSON. Codes are gRPC's own, where TorchServe says INTERNAL
to nearly everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol, TypeVar

from gateway import pins
from gateway.backends.base import Backend
from gateway.codecs import torchserve as codec
from gateway.codecs import torchserve_opaque as opaque
from gateway.codecs import wire
from gateway.codecs.torchserve_values import JSON
from gateway.errors import DuetError, Internal, NotFound, Target
from gateway.grpc import errors
from gateway.grpc.calls import Call, Calls
from gateway.grpc.server import Services
from gateway.protos import torchserve_pb2 as pb
from gateway.types import InferRequest, ModelMetadata, Signature, VersionMetadata
from gateway.versions import choose

FRONT = "torchserve_grpc"
_INSTEAD_OF_JSON = "its gRPC answers in JSON: call /predictions for raw bytes, or ModelInfer of inference protocol v2"
_T = TypeVar("_T")
SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"


class Aside(Protocol):
    """Calls functions in a process of its own: worth its while from ``min_bytes`` on (`gateway.rest.aside`)."""

    min_bytes: int

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T: ...


def services(backend: Backend, calls: Calls, *, ready: Callable[[], bool], aside: Aside | None = None) -> Services:
    """Without ``aside``, large inputs of JSON are decoded where they come."""
    front = Front(backend, ready, aside)
    path, request = f"/{SERVICE}/", wire.Checked(pb.PredictionsRequest)
    return {
        SERVICE: {
            "Ping": calls.unary(front.ping, pb.Empty, path=f"{path}Ping", everybody=True, empty=True),
            "Predictions": calls.unary(front.predict, request, path=f"{path}Predictions", front=FRONT),
            # One answer: a handler that does not stream dies of a streaming call, and none of ours streams.
            "StreamPredictions": calls.unary(
                front.predict, request, path=f"{path}StreamPredictions", front=FRONT, as_stream=True
            ),
            "StreamPredictions2": calls.stream(
                front.predict, request, path=f"{path}StreamPredictions2", front=FRONT, in_band=in_band
            ),
        }
    }


def in_band(error: DuetError, request: pb.PredictionsRequest | None) -> pb.PredictionResponse:
    """An error inside StreamPredictions2: ``status`` holds gRPC's code and the text, and the stream goes on."""
    status = pb.Status(code=errors.STATUS[error.code].value[0], message=error.message)
    return pb.PredictionResponse(status=status, sequence_id=_sequence_id(request))


class Front:
    """The behaviours of the service's calls."""

    def __init__(self, backend: Backend, ready: Callable[[], bool], aside: Aside | None) -> None:
        self._backend = backend
        self._aside = aside
        self._ready = ready

    async def ping(self, _: pb.Empty, call: Call) -> pb.TorchServeHealthResponse:
        return pb.TorchServeHealthResponse(health='{"status":"Healthy"}' if self._ready() else '{"status":"Unhealthy"}')

    async def predict(self, message: pb.PredictionsRequest, call: Call) -> pb.PredictionResponse:
        start = perf_counter()
        pin, metadata, chosen = await self._find(message, call.variant)
        if chosen.opaque:
            opaque.check_no_signature(metadata.model, call.signature)
            version = chosen.version if message.model_version else None
            payload = opaque.of_parts(message.input)
            request = InferRequest(metadata.model, (), (), version, pin, deadline=call.deadline, payload=payload)
            return await self._pass_on(request, message, call)
        try:
            body = await self._decode(message.input, codec.signature_of(chosen, pins.signature(call.signature)))
            signature_name = pins.signature(call.signature, body.signature_name)
            variant = pins.agree(pin, body.variant)
        except DuetError as error:
            error.target = Target(metadata.model, metadata.variant, chosen.version)
            raise
        request = InferRequest(
            metadata.model,
            body.inputs,
            body.outputs,
            chosen.version if message.model_version else None,
            variant,
            body.parameters,
            body.id,
            call.deadline,
            signature_name,
        )
        call.seen.timings["decode"] = perf_counter() - start
        response = await call.infer(self._backend, request)
        call.answered(request, response)
        start = perf_counter()
        answer = codec.encode(response, body, JSON, instead=_INSTEAD_OF_JSON)
        call.seen.timings["encode"] = perf_counter() - start
        return pb.PredictionResponse(prediction=b"".join(answer.pieces), sequence_id=_sequence_id(message))

    async def _decode(self, given: Mapping[str, bytes], signature: Signature) -> codec.Body:
        parts = dict(given)  # each look at a value of protobuf's is a copy of it
        if self._aside is not None and codec.named_may_be_parsed(parts, self._aside.min_bytes):
            # The server's own description would go with every body, and nobody reads it there.
            return await self._aside.call(codec.decode_named, parts, replace(signature, native=b""))
        return codec.decode_named(parts, signature)

    async def _pass_on(
        self, request: InferRequest, message: pb.PredictionsRequest, call: Call
    ) -> pb.PredictionResponse:
        response = await call.infer(self._backend, request)
        if response.payload is None:
            raise Internal(f"the answer of {request.model} is not the one of its handler")
        if response.payload.status >= 400:
            error = opaque.error_of(response.payload)
            error.target = Target(response.model, response.variant, response.version)
            raise error
        call.answered(request, response)
        return pb.PredictionResponse(prediction=response.payload.body, sequence_id=_sequence_id(message))

    async def _find(
        self, message: pb.PredictionsRequest, given: str | None
    ) -> tuple[str | None, ModelMetadata, VersionMetadata]:
        """The variant that the client pinned, if any, and the model and version that the message names."""
        model, pin = pins.split_pin(message.model_name)
        variant = pins.agree(pin, given)
        try:
            metadata = await self._backend.metadata(f"{model}@{variant}" if variant else model)
        except NotFound as error:
            raise error if variant else codec.ModelNotFound(model) from None
        text = message.model_version
        version = codec.version(text) if text else None
        try:
            if text and version not in metadata.versions:
                raise codec.VersionNotFound(model, text)
            return variant, metadata, choose(metadata, version)
        except DuetError as error:
            error.target = Target(model, metadata.variant, None)
            raise


def _sequence_id(message: pb.PredictionsRequest | None) -> str | None:
    return message.sequence_id if message is not None and message.HasField("sequence_id") else None
