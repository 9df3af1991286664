"""The client of one endpoint of the Open Inference Protocol, over either of its wires."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.servers.channel import seconds_left
from gateway.servers.v2.settings import V2Signature, V2Tensor
from gateway.types import (
    DEFAULT_SIGNATURE,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Signature,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

#: The number of the one version that a server without versions has, or with versions that are no whole numbers
#: (MLServer's ``v1.2``). It is called without naming a version.
ONLY_VERSION = 1

_UNDESCRIBED = (
    "its server does not describe what it takes and gives; say so in the settings, servers.{variant}.signatures.{model}"
)


@dataclass(frozen=True, slots=True)
class Described:
    """What a server tells of a model, or of one version of it. ``versions`` are texts."""

    versions: tuple[str, ...]
    platform: str
    signature: Signature


class Wire(Protocol):
    """REST or gRPC. ``version`` is a text, and empty for the server's own choice. Failures are DuetErrors."""

    async def infer(self, request: InferRequest, version: str, seconds: float | None) -> tuple[Tensor, ...]:
        """``seconds`` is what the server may take."""
        ...

    async def describe(self, model: str, version: str) -> Described: ...

    async def ready(self, model: str, version: str) -> bool: ...

    async def models(self) -> Collection[str] | None: ...

    async def aclose(self) -> None: ...


class V2:
    """The Server that one endpoint is. ``variant`` is the name that its answers carry.

    ``signatures`` are those of models that the server does not describe. A version is what the server calls so if that
    is a whole number, as in Triton; otherwise there is one, `ONLY_VERSION`.
    """

    def __init__(self, wire: Wire, *, variant: str, signatures: Mapping[str, V2Signature]) -> None:
        self._wire = wire
        self._variant = variant
        self._signatures = {model: _given(signature) for model, signature in signatures.items()}
        #: Models without versions of the server's own.
        self._unversioned: set[str] = set()

    async def infer(self, request: InferRequest) -> InferResponse:
        version = "" if request.model in self._unversioned else str(request.version)
        outputs = await self._wire.infer(request, version, seconds_left(request))
        return InferResponse(request.model, self._variant, request.version or 0, outputs)

    async def metadata(self, model: str) -> ModelMetadata:
        described = await self._wire.describe(model, "")
        texts = [text for text in described.versions if text.isdecimal() and len(text) <= 18]
        if not texts:
            self._unversioned.add(model)
            versions = [await self._version(model, ONLY_VERSION, "", described)]
        else:
            self._unversioned.discard(model)
            versions = []
            for text in sorted(texts, key=int):
                own = described if len(texts) == 1 else await self._wire.describe(model, text)
                versions.append(await self._version(model, int(text), text, own))
        default = max((version.version for version in versions if version.ready), default=None)
        by_number = {version.version: version for version in versions}
        return ModelMetadata(model, self._variant, described.platform, by_number, default)

    async def _version(self, model: str, number: int, text: str, described: Described) -> VersionMetadata:
        if not await self._wire.ready(model, text):
            return VersionMetadata(number, False, reason="its server says that it is not ready")
        signature = self._signatures.get(model, described.signature)
        if not signature.outputs:
            reason = _UNDESCRIBED.format(variant=self._variant, model=model)
            return VersionMetadata(number, False, reason=reason)
        return VersionMetadata(number, True, {DEFAULT_SIGNATURE: signature})

    async def models(self) -> Collection[str] | None:
        return await self._wire.models()

    async def aclose(self) -> None:
        await self._wire.aclose()


def _given(signature: V2Signature) -> Signature:
    return Signature(_specs(signature.inputs), _specs(signature.outputs))


def _specs(tensors: tuple[V2Tensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)
