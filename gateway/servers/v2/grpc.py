"""The Open Inference Protocol over gRPC: raw tensors out, raw or typed ones back.

Sources: open-inference-protocol ``specification/protocol/inference_grpc.md``; Triton's ``grpc_service.proto``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError, Message

from gateway import errors
from gateway.codecs import raw, v2, v2_grpc
from gateway.protos import v2_pb2 as pb
from gateway.servers.channel import Channel
from gateway.servers.faults import Lost, readable
from gateway.servers.v2.client import Described
from gateway.servers.v2.faults import V2
from gateway.tls import ClientTls
from gateway.types import InferRequest, Signature, Tensor, TensorSpec

_SERVICE = "/inference.GRPCInferenceService"
_INFER, _METADATA = f"{_SERVICE}/ModelInfer", f"{_SERVICE}/ModelMetadata"
_READY, _INDEX = f"{_SERVICE}/ModelReady", f"{_SERVICE}/RepositoryIndex"
_METHODS: dict[str, type[Message]] = {
    _INFER: pb.ModelInferRequest,
    _METADATA: pb.ModelMetadataRequest,
    _READY: pb.ModelReadyRequest,
    _INDEX: pb.RepositoryIndexRequest,
}

_Answer = TypeVar("_Answer", bound=Message)
_Output = pb.ModelInferResponse.InferOutputTensor


class GrpcWire:
    """Its deadline travels as gRPC's own, and a call that is given up is cancelled at the server."""

    def __init__(self, authority: str, *, tls: ClientTls | None = None) -> None:
        self._channel = Channel(authority, _METHODS, tls=tls)

    async def infer(self, request: InferRequest, version: str, seconds: float | None) -> tuple[Tensor, ...]:
        message = pb.ModelInferRequest(model_name=request.model, model_version=version)
        for tensor in request.inputs:
            message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            message.raw_input_contents.append(bytes(raw.encode(tensor)))
        for name in request.outputs:
            message.outputs.add(name=name)
        with _translated():
            data = await self._channel.call(_INFER)(message, timeout=seconds)
        answer = _parsed(data, pb.ModelInferResponse)
        with readable():
            return decode_outputs(answer)

    async def describe(self, model: str, version: str) -> Described:
        self._channel.renew()
        answer = await self._asked(
            _METADATA, pb.ModelMetadataRequest(name=model, version=version), pb.ModelMetadataResponse
        )
        signature = Signature(_specs(answer.inputs), _specs(answer.outputs))
        return Described(tuple(answer.versions), answer.platform, signature)

    async def ready(self, model: str, version: str) -> bool:
        request = pb.ModelReadyRequest(name=model, version=version)
        return bool((await self._asked(_READY, request, pb.ModelReadyResponse)).ready)

    async def models(self) -> Collection[str] | None:
        """From Triton's and MLServer's index; KServe has none over gRPC."""
        try:
            answer = await self._asked(_INDEX, pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        except errors.Unimplemented:
            return None
        return list(dict.fromkeys(model.name for model in answer.models if model.name))

    async def aclose(self) -> None:
        await self._channel.aclose()

    async def _asked(self, method: str, request: Message, kind: type[_Answer]) -> _Answer:
        with _translated(describing=True):
            data = await self._channel.call(method)(request)
        return _parsed(data, kind)


def decode_outputs(message: pb.ModelInferResponse) -> tuple[Tensor, ...]:
    """The outputs of an answer. Raises DataLoss if it is none, Unimplemented for what the gateway lacks."""
    contents = message.raw_output_contents
    try:
        if not contents:
            return tuple(v2_grpc.typed_tensor(_supported(output), None) for output in message.outputs)
        if len(contents) != len(message.outputs):
            raise errors.InvalidArgument(f"{len(contents)} raw contents for {len(message.outputs)} outputs")
        return tuple(_of_raw(_supported(output), blob) for output, blob in zip(message.outputs, contents, strict=True))
    except errors.InvalidArgument as error:
        raise errors.DataLoss(f"the server's answer is not valid: {error.message}") from error


def _of_raw(output: _Output, blob: bytes) -> Tensor:
    return raw.decode(output.name, output.datatype, v2.check_shape(output.name, output.shape), blob)


def _supported(output: _Output) -> _Output:
    v2.check_supported(output.name, output.datatype, len(output.shape))
    return output


def _specs(entries: Iterable[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(entry.name, entry.datatype, tuple(entry.shape)) for entry in entries)


def _parsed(data: bytes, kind: type[_Answer]) -> _Answer:
    """Raises DataLoss."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise V2.translated(Lost.UNREADABLE, "it is no message of this call") from error


@contextmanager
def _translated(*, describing: bool = False) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise V2.translated(error.code(), error.details() or "", describing=describing) from error
