"""The one place where a gRPC server is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
import grpc.aio

#: Service name -> method name -> handler.
Services = Mapping[str, Mapping[str, grpc.RpcMethodHandler]]


class Server:
    """grpc.aio's server, which tells open streams to end (``ending``) before it waits for the calls in flight."""

    def __init__(self, inner: grpc.aio.Server, ending: asyncio.Event) -> None:
        self._inner = inner
        self._ending = ending

    def add_insecure_port(self, address: str) -> int:
        return int(self._inner.add_insecure_port(address))

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self, grace_seconds: float | None) -> None:
        """Takes no new calls; those in flight have ``grace_seconds``, None for none at all."""
        self._ending.set()
        await self._inner.stop(grace_seconds)


def build(services: Services, *, max_message_bytes: int, ending: asyncio.Event, share_port: bool = False) -> Server:
    """A server without a port. ``max_message_bytes`` bounds what it reads, before memory is taken for it.

    ``share_port`` lets several processes listen on one port. Otherwise a second one would take half of the calls
    without a word.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", 1024),
            ("grpc.max_metadata_size", 16 << 10),
            ("grpc.so_reuseport", int(share_port)),
            # Clients may ping while they wait for a long call.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
    )
    for name, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, dict(methods)),))
    return Server(server, ending)
