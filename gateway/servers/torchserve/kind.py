from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.servers.base import Server, ServerAddress, ServerKind
from gateway.servers.torchserve.settings import TorchServeSettings

if TYPE_CHECKING:
    from gateway.servers.faults import Faults


class TorchServeKind(ServerKind[TorchServeSettings]):
    """TorchServe, over REST."""

    name = "torchserve"
    title = "TorchServe"
    settings = TorchServeSettings
    takes_opaque = True

    def connect(self, settings: TorchServeSettings, endpoint: ServerAddress) -> Server:
        from gateway.servers.torchserve.client import TorchServe

        return TorchServe(
            f"{settings.scheme}://{endpoint.authority}",
            management=f"{settings.scheme}://{endpoint.host}:{urlsplit(settings.management).port}",
            variant=endpoint.variant,
            key_file=settings.key_file,
            opaque=endpoint.opaque,
            tls=endpoint.tls,
        )

    def faults(self) -> Faults:
        from gateway.servers.torchserve.faults import TORCHSERVE

        return TORCHSERVE
