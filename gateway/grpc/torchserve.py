"""TorchServe's inference API over gRPC.

Source: serve ``frontend/server/src/main/resources/proto/inference.proto``. Every input is bytes: JSON, ``.npy``, raw
bytes, or text for BYTES; an answer is what REST answers as JSON. Codes are gRPC's own, where TorchServe says INTERNAL
to nearly everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol, TypeVar

from gateway import pins
from gateway.backends.base import Entry, completed
from gateway.codecs import torchserve as codec
from gateway.codecs import torchserve_opaque as opaque
from gateway.codecs import wire
from gateway.codecs.torchserve_values import JSON
from gateway.core.modelref import ModelRef
from gateway.errors import DuetError, Internal, MeantFor
from gateway.grpc import errors
from gateway.grpc.calls import Call, Calls
from gateway.grpc.server import Services
from gateway.protos import torchserve_pb2 as pb
from gateway.types import InferRequest, InferResponse, Signature, Target

FRONT = "torchserve_grpc"
_INSTEAD_OF_JSON = "its gRPC answers in JSON: call /predictions for raw bytes, or ModelInfer of inference protocol v2"
_T = TypeVar("_T")
SERVICE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"


class Aside(Protocol):
    """Calls functions in a process of its own: worth its while from ``min_bytes`` on (`gateway.rest.aside`)."""

    min_bytes: int

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T: ...


def services(entry: Entry, calls: Calls, *, ready: Callable[[], bool], aside: Aside | None = None) -> Services:
    """Without ``aside``, large inputs of JSON are decoded where they come."""
    front = Front(entry, ready, aside)
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

    def __init__(self, entry: Entry, ready: Callable[[], bool], aside: Aside | None) -> None:
        self._entry = entry
        self._aside = aside
        self._ready = ready

    async def ping(self, _: pb.Empty, call: Call) -> pb.TorchServeHealthResponse:
        return pb.TorchServeHealthResponse(health='{"status":"Healthy"}' if self._ready() else '{"status":"Unhealthy"}')

    async def predict(self, message: pb.PredictionsRequest, call: Call) -> pb.PredictionResponse:
        start = perf_counter()
        ref = ModelRef.parse(message.model_name, call.variant, signature=pins.signature(call.signature))
        read = _Reading(self._entry, self._aside, message, call)
        request = await codec.resolved(self._entry.resolve, ref, message.model_version).read(read)
        call.seen.timings["decode"] = perf_counter() - start
        response = await call.infer(self._entry, request)
        if read.decoded is None:
            return _passed_on(request, response, message, call)
        call.answered(request, response)
        start = perf_counter()
        answer = codec.encode(response, read.decoded, JSON, instead=_INSTEAD_OF_JSON)
        call.seen.timings["encode"] = perf_counter() - start
        return pb.PredictionResponse(prediction=b"".join(answer.pieces), sequence_id=_sequence_id(message))


class _Reading:
    """Makes the request of a message, by the version that it is for. `decoded` is None where it is passed on."""

    def __init__(self, entry: Entry, aside: Aside | None, message: pb.PredictionsRequest, call: Call) -> None:
        self.decoded: codec.Body | None = None
        self._entry = entry
        self._aside = aside
        self._message = message
        self._named = call.signature
        self._deadline = call.deadline

    async def __call__(self, target: Target) -> InferRequest:
        if target.opaque:
            self.decoded = None
            opaque.check_no_signature(target.model, self._named)
            payload = opaque.of_parts(self._message.input)
            return target.request((), deadline=self._deadline, payload=payload, reread=self)
        body = self.decoded = await self._decode(codec.signature_of(target.described, pins.signature(self._named)))
        signature_name = pins.signature(self._named, body.signature_name)
        target = completed(self._entry, target.ref.pinned(body.variant).calling(signature_name), target)
        return target.request(body.inputs, body.outputs, body.parameters, body.id, self._deadline, reread=self)

    async def _decode(self, signature: Signature) -> codec.Body:
        parts = dict(self._message.input)  # each look at a value of protobuf's is a copy of it
        if self._aside is not None and codec.named_may_be_parsed(parts, self._aside.min_bytes):
            # The server's own description would go with every body, and nobody reads it there.
            return await self._aside.call(codec.decode_named, parts, replace(signature, native=b""))
        return codec.decode_named(parts, signature)


def _passed_on(
    request: InferRequest, response: InferResponse, message: pb.PredictionsRequest, call: Call
) -> pb.PredictionResponse:
    """The answer of a model's own handler."""
    if response.payload is None:
        raise Internal(f"the answer of {request.model} is not the one of its handler")
    if response.payload.status >= 400:
        error = opaque.error_of(response.payload)
        error.target = MeantFor(response.model, response.variant, response.version)
        raise error
    call.answered(request, response)
    return pb.PredictionResponse(prediction=response.payload.body, sequence_id=_sequence_id(message))


def _sequence_id(message: pb.PredictionsRequest | None) -> str | None:
    return message.sequence_id if message is not None and message.HasField("sequence_id") else None
