from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.servers.base import Server, ServerAddress, ServerKind
from gateway.servers.v2.settings import V2Settings

if TYPE_CHECKING:
    from gateway.servers.faults import Faults


class V2Kind(ServerKind[V2Settings]):
    """Any server that speaks the Open Inference Protocol, over REST or gRPC."""

    name = "v2"
    title = "the v2 server"
    settings = V2Settings

    def connect(self, settings: V2Settings, endpoint: ServerAddress) -> Server:
        from gateway.servers.v2.client import V2, Wire
        from gateway.servers.v2.grpc import GrpcWire
        from gateway.servers.v2.rest import RestWire

        wire: Wire
        if settings.scheme == "grpc":
            wire = GrpcWire(endpoint.authority, tls=endpoint.tls)
        else:
            wire = RestWire(f"{settings.scheme}://{endpoint.authority}", binary=settings.binary, tls=endpoint.tls)
        return V2(wire, variant=endpoint.variant, signatures=settings.signatures)

    def faults(self) -> Faults:
        from gateway.servers.v2.faults import V2

        return V2
