"""The Open Inference Protocol over gRPC, with Triton's stream, index, statistics and configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

from google.protobuf.json_format import ParseDict

from gateway import __version__, pins
from gateway.backends.base import Entry, completed
from gateway.codecs import v2, v2_models, wire
from gateway.codecs import v2_grpc as codec
from gateway.core.modelref import ModelRef
from gateway.errors import DuetError
from gateway.grpc.calls import Behaviour, Call, Calls, Message
from gateway.grpc.server import Services
from gateway.information import Information, Models
from gateway.protos import v2_pb2 as pb
from gateway.types import Parameter

SERVICE = "inference.GRPCInferenceService"
FRONT = "v2_grpc"


def services(entry: Entry, calls: Calls, *, ready: Callable[[], bool], models: Models = tuple) -> Services:
    """``models`` names the models of the index and of the statistics of all."""
    infer = Infer(entry)
    telling = Telling(Information(entry, models=models, statistics=calls.statistics), ready=ready)

    def unary(name: str, behaviour: Behaviour, request: Any, *, front: str = "", health: bool = False) -> Any:
        path = f"/{SERVICE}/{name}"
        checked = wire.Checked(request, max_bytes=None if front else wire.MAX_NAMING_BYTES)
        return calls.unary(behaviour, checked, path=path, front=front, everybody=health, empty=health)

    stream = calls.stream(
        infer.in_stream,
        wire.Checked(pb.ModelInferRequest),
        path=f"/{SERVICE}/ModelStreamInfer",
        front=FRONT,
        in_band=_in_band,
    )
    return {
        SERVICE: {
            "ModelInfer": unary("ModelInfer", infer, pb.ModelInferRequest, front=FRONT),
            "ModelStreamInfer": stream,
            "ServerLive": unary("ServerLive", telling.server_live, pb.ServerLiveRequest, health=True),
            "ServerReady": unary("ServerReady", telling.server_ready, pb.ServerReadyRequest, health=True),
            "ServerMetadata": unary("ServerMetadata", telling.server_metadata, pb.ServerMetadataRequest),
            "ModelReady": unary("ModelReady", telling.model_ready, pb.ModelReadyRequest),
            "ModelMetadata": unary("ModelMetadata", telling.model_metadata, pb.ModelMetadataRequest),
            "ModelConfig": unary("ModelConfig", telling.model_config, pb.ModelConfigRequest),
            "ModelStatistics": unary("ModelStatistics", telling.model_statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": unary("RepositoryIndex", telling.repository_index, pb.RepositoryIndexRequest),
        }
    }


class Infer:
    """Decode, call, encode."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    async def __call__(self, message: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        start = perf_counter()
        ref = _ref(message.model_name, message.model_version, call)
        access = call.seen.access
        # Nothing is decoded at length for somebody whose model this is not.
        early = access is not None and access.bytes_in >= wire.MIN_BYTES
        target = self._entry.resolve(ref) if early else None
        asked = codec.decode_request(message)
        ref = ref.pinned(v2.variant(asked.parameters)).calling(pins.signature(call.signature, asked.signature_name))
        deadline = _deadline(asked.parameters, call)
        target = completed(self._entry, ref, target)
        request = target.request(asked.inputs, asked.outputs, asked.parameters, message.id, deadline)
        call.seen.timings["decode"] = perf_counter() - start
        response = await call.infer(self._entry, request)
        call.answered(request, response)
        start = perf_counter()
        answer = codec.encode_response(response, asked, request_id=message.id)
        call.seen.timings["encode"] = perf_counter() - start
        return answer

    async def in_stream(self, message: pb.ModelInferRequest, call: Call) -> pb.ModelStreamInferResponse:
        """Each request has one answer. A stream's metadata is sent once: who answered is among the parameters."""
        answer = await self(message, call)
        answer.parameters["variant"].string_param = call.seen.variant
        _mark_final(answer)
        return pb.ModelStreamInferResponse(infer_response=answer)


class Telling:
    """What is no inference: health, metadata, configuration, statistics, index."""

    def __init__(self, information: Information, *, ready: Callable[[], bool]) -> None:
        self._information = information
        self._ready = ready

    async def server_live(self, _: pb.ServerLiveRequest, __: Call) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _: pb.ServerReadyRequest, __: Call) -> Message:
        return pb.ServerReadyResponse(ready=self._ready())

    async def server_metadata(self, _: pb.ServerMetadataRequest, __: Call) -> Message:
        return pb.ServerMetadataResponse(name="duet", version=__version__, extensions=v2_models.EXTENSIONS)

    async def model_ready(self, request: pb.ModelReadyRequest, call: Call) -> Message:
        """An unknown model is not ready, and no error: so have it Triton and its clients."""
        try:
            ref = _ref(request.name, request.version, call)
        except DuetError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._information.ready(ref))

    async def model_metadata(self, request: pb.ModelMetadataRequest, call: Call) -> Message:
        named = pins.signature(call.signature)
        ref = _ref(request.name, request.version, call).calling(named)
        metadata, chosen, signature = self._information.signature(ref)
        call.seen.model, call.seen.variant, call.seen.version = metadata.model, metadata.variant, str(chosen.version)
        document = v2_models.metadata(metadata, signature)
        return ParseDict(document, pb.ModelMetadataResponse(), ignore_unknown_fields=True)

    async def model_config(self, request: pb.ModelConfigRequest, call: Call) -> Message:
        metadata, chosen = self._information.describe(_ref(request.name, request.version, call))
        call.seen.model, call.seen.variant, call.seen.version = metadata.model, metadata.variant, str(chosen.version)
        return ParseDict({"config": v2_models.config(metadata, chosen)}, pb.ModelConfigResponse())

    async def model_statistics(self, request: pb.ModelStatisticsRequest, call: Call) -> Message:
        ref = _ref(request.name, request.version, call) if request.name else None
        return ParseDict(self._information.statistics(ref), pb.ModelStatisticsResponse())

    async def repository_index(self, request: pb.RepositoryIndexRequest, _: Call) -> Message:
        models = self._information.index(only_ready=request.ready)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())


def _in_band(error: DuetError, message: pb.ModelInferRequest | None) -> pb.ModelStreamInferResponse:
    answer = pb.ModelInferResponse()
    _mark_final(answer)
    if message is not None:
        answer.id, answer.model_name = message.id, message.model_name
    return pb.ModelStreamInferResponse(error_message=error.message or error.code.name, infer_response=answer)


def _mark_final(answer: pb.ModelInferResponse) -> None:
    """Every answer is its request's last one, and says so whether or not that was asked for.

    tritonclient's asyncio client has no way to ask, and waits for it all the same.
    """
    answer.parameters["triton_final_response"].bool_param = True


def _ref(name: str, version: str, call: Call) -> ModelRef:
    """What a message and the metadata name."""
    return ModelRef.parse(name, call.variant, version=v2.version(version) if version else None)


def _deadline(parameters: dict[str, Parameter], call: Call) -> float | None:
    """The sooner of the call's deadline and the one that the parameter ``timeout`` sets, from its arrival on."""
    timeout = v2.timeout_seconds(parameters)
    if timeout is None:
        return call.deadline
    own = asyncio.get_running_loop().time() - (perf_counter() - call.seen.started) + timeout
    return own if call.deadline is None else min(own, call.deadline)
