"""A kind of server that the gateway does not know: a folder's worth of code in one file, and a line in the list.

``python tests/gateway/toykind.py --config FILE`` is the gateway with that line added.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Literal

from gateway import errors
from gateway.servers.base import Server, ServerAddress, ServerKind
from gateway.servers.faults import MODEL, Faults, Row
from gateway.servers.kinds import SERVERS
from gateway.servers.settings import ServerSettings
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

_REFUSED = Row(13, errors.InvalidArgument, "{server}: {text}", MODEL)
FAULTS = Faults("the toy", (_REFUSED, Row(None, errors.Internal, "", MODEL)))
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),))


class ToySettings(ServerSettings):
    kind: Literal["toy"]
    factor: float = 2.0


class Toy:
    """The Server. It is its own model, and calls nobody."""

    def __init__(self, settings: ToySettings, endpoint: ServerAddress) -> None:
        self._factor, self._variant = settings.factor, endpoint.variant

    async def infer(self, request: InferRequest) -> InferResponse:
        x = request.inputs[0].data
        if x.size and x.ravel()[0] == 13:
            raise FAULTS.translated(13, "x must not begin with 13")
        y = Tensor("y", "FP32", (x * self._factor).astype(x.dtype))
        return InferResponse(request.model, self._variant, 1, (y,))

    async def metadata(self, model: str) -> ModelMetadata:
        if model != "double":
            raise errors.NotFound("the toy has no such model")
        versions = {1: VersionMetadata(1, True, {DEFAULT_SIGNATURE: SIGNATURE})}
        return ModelMetadata(model, self._variant, "toy", versions, 1)

    async def models(self) -> Collection[str]:
        return ["double"]

    async def aclose(self) -> None:
        pass


class ToyKind(ServerKind[ToySettings]):
    name = "toy"
    title = "the toy"
    settings = ToySettings

    def connect(self, settings: ToySettings, endpoint: ServerAddress) -> Server:
        return Toy(settings, endpoint)

    def faults(self) -> Faults:
        return FAULTS


if __name__ == "__main__":
    SERVERS.append(ToyKind())

    from gateway.__main__ import main

    sys.exit(main())
