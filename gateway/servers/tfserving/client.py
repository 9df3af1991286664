"""TensorFlow Serving over gRPC."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.wrappers_pb2 import BytesValue

from gateway import errors
from gateway.codecs import artifact
from gateway.codecs import tfserving as codec
from gateway.protos import tfserving_pb2 as pb
from gateway.servers.channel import Channel, seconds_left
from gateway.servers.faults import Lost, readable
from gateway.servers.tfserving.faults import TFSERVING
from gateway.servers.tfserving.files import BatchingParametersFile, ModelConfigFile
from gateway.tls import ClientTls
from gateway.types import (
    DEFAULT_SIGNATURE,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Rows,
    Signature,
    VersionMetadata,
)

log = logging.getLogger("duet.backends.tfserving")

PLATFORM = "tensorflow_savedmodel"

_Answer = TypeVar("_Answer", bound=Message)

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_METHODS: dict[str, type[Message]] = {
    _PREDICT: pb.PredictRequest,
    _METADATA: pb.GetModelMetadataRequest,
    _STATUS: pb.GetModelStatusRequest,
}

_GONE = VersionMetadata(0, ready=False)

#: The metadata field by which Duet's own TensorFlow server reports `assets.extra/duet.json`.
_DUET_FIELD = "duet"


class TFServing:
    """The Backend that one TensorFlow Serving endpoint is. ``variant`` is the name that its answers carry.

    ``model_config_file`` is the file that the server itself reads (its flag of that name): no call lists its models,
    nor their labels. Which version a label stands for is asked of the server, which may not have read the file again.
    ``batching_parameters`` is the same of the file by which the server batches.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        variant: str,
        model_config_file: Path | None = None,
        batching_parameters: BatchingParametersFile | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._channel = Channel(endpoint, _METHODS, tls=tls)
        self._config = ModelConfigFile(model_config_file) if model_config_file else None
        self._batching_parameters = batching_parameters
        self._variant = variant
        # A version's signature never changes while it is served.
        self._signatures: dict[tuple[str, int], dict[str, Signature]] = {}
        self._artifacts: dict[tuple[str, int], str] = {}

    async def infer(self, request: InferRequest) -> InferResponse:
        seconds = seconds_left(request)
        with self._translated():
            data = await self._channel.call(_PREDICT)(codec.encode_predict(request), timeout=seconds)
        message = _parsed(data, pb.PredictResponse)
        with readable():
            outputs = codec.decode_predict_response(message)
        return InferResponse(request.model, self._variant, message.model_spec.version.value, outputs)

    async def metadata(self, model: str) -> ModelMetadata:
        self._channel.renew()
        with self._translated(describing=True):
            spec = pb.ModelSpec(name=model)
            data = await self._channel.call(_STATUS)(pb.GetModelStatusRequest(model_spec=spec))
        answer = _parsed(data, pb.GetModelStatusResponse)
        batching = self._batching_parameters.batching() if self._batching_parameters else None
        versions: dict[int, VersionMetadata] = {}
        for status in sorted(answer.model_version_status, key=lambda status: status.version):
            ready = status.state == pb.ModelVersionStatus.AVAILABLE
            signatures = await self._described(model, status.version) if ready else {}
            reason = status.status.error_message or pb.ModelVersionStatus.State.Name(status.state)
            versions[status.version] = VersionMetadata(
                status.version,
                ready,
                signatures,
                "" if ready else reason,
                batching=batching,
                artifact=self._artifacts.get((model, status.version), ""),
            )
        self._forget_all_but(model, versions)
        default = max((version.version for version in versions.values() if version.ready), default=None)
        return ModelMetadata(model, self._variant, PLATFORM, versions, default, await self._labelled(model))

    async def models(self) -> Collection[str] | None:
        return None if self._config is None else self._config.labels().keys()

    async def aclose(self) -> None:
        await self._channel.aclose()

    async def _labelled(self, model: str) -> dict[str, int]:
        """The versions that the model's labels stand for; a label that the server does not know is left out."""
        try:
            labels = self._config.labels().get(model, ()) if self._config else ()
        except errors.Unavailable:
            return {}
        found: dict[str, int] = {}
        for label in labels:
            spec = pb.ModelSpec(name=model, version_label=label)
            request = pb.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
            with suppress(errors.InvalidArgument, errors.NotFound, errors.FailedPrecondition):
                with self._translated(describing=True):
                    data = await self._channel.call(_METADATA)(request)
                found[label] = _parsed(data, pb.GetModelMetadataResponse).model_spec.version.value
        return found

    async def _described(self, model: str, version: int) -> dict[str, Signature]:
        known = self._signatures.get((model, version))
        if known is not None:
            return known
        spec = pb.ModelSpec(name=model, version=pb.Int64Value(value=version))
        request = pb.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        with self._translated(describing=True):
            data = await self._channel.call(_METADATA)(request)
        answer = _parsed(data, pb.GetModelMetadataResponse)
        definitions = pb.SignatureDefMap.FromString(answer.metadata["signature_def"].value).signature_def
        signatures = {name: codec.decode_signature(definitions[name]) for name in sorted(definitions)}
        described = await self._self_described(spec)
        if DEFAULT_SIGNATURE in signatures and (rows := artifact.rows(described)) is not Rows.UNKNOWN:
            signatures[DEFAULT_SIGNATURE] = replace(signatures[DEFAULT_SIGNATURE], rows=rows)
        if described:
            self._artifacts[model, version] = artifact.digest(described)
        self._signatures[model, version] = signatures
        return signatures

    async def _self_described(self, spec: pb.ModelSpec) -> dict[str, Any]:
        """What the artifact says of itself, which Duet's own server reports and TensorFlow's refuses to.

        It is about the default signature.
        """
        request = pb.GetModelMetadataRequest(model_spec=spec, metadata_field=[_DUET_FIELD])
        try:
            with self._translated(describing=True):
                data = await self._channel.call(_METADATA)(request)
        except (errors.Unavailable, errors.DeadlineExceeded):
            raise  # it may yet tell
        except errors.DuetError:
            return {}
        answer = _parsed(data, pb.GetModelMetadataResponse)
        with suppress(DecodeError):
            return artifact.parsed(BytesValue.FromString(answer.metadata[_DUET_FIELD].value).value)
        return {}

    def _forget_all_but(self, model: str, versions: dict[int, VersionMetadata]) -> None:
        gone = [key for key in self._signatures if key[0] == model and not versions.get(key[1], _GONE).ready]
        for key in gone:
            del self._signatures[key]
            self._artifacts.pop(key, None)

    @contextmanager
    def _translated(self, *, describing: bool = False) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            failure = TFSERVING.translated(error.code(), error.details() or "", describing=describing)
            if isinstance(failure, errors.Unavailable):
                log.info("%s: %s", self.endpoint, error.details())
            raise failure from error


def _parsed(data: bytes, kind: type[_Answer]) -> _Answer:
    """The message. Not left to grpc.aio, which gives None for what it cannot parse. Raises DataLoss."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise TFSERVING.translated(Lost.UNREADABLE, "it is no message of this call") from error
