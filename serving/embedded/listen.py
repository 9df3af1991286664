"""The gRPC server: its loop, ports, options and credentials.

grpc.aio on uvloop, since what a small call costs is the turns that threads take: grpcio's threaded server gives a call
a thread before its message is there, and needs twice as many turns. And callers that do not finish sending hold up
nothing here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
import uvloop

from serving.embedded import config, protos
from serving.embedded.flags import Flags

#: Protobuf's own limit, as the real server's for both ways.
MAX_MESSAGE_BYTES = (1 << 31) - 1
#: Ours, since a message lies in memory several times before the model has it; `--grpc_channel_arguments=
#: grpc.max_receive_message_length=N` sets another. A message over it is RESOURCE_EXHAUSTED.
MAX_RECEIVED_BYTES = 256 << 20
#: A client that lost its network never says so: it is asked now and then.
_KEEPALIVE_MILLISECONDS = 300_000


class CannotListen(Exception):
    """A port is taken, or a credential cannot be used; the text says which. ``told`` is the real server's text."""

    def __init__(self, message: str, told: str = "INVALID_ARGUMENT: Failed to BuildAndStart gRPC server") -> None:
        super().__init__(message)
        self.told = told


class GrpcServer:
    """Serves from its making until `stop`, on a thread of its own. Raises CannotListen and ConfigError.

    ``port`` is 0 if there is only a socket.
    """

    def __init__(self, flags: Flags, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True).start()
        self._server, self.port = asyncio.run_coroutine_threadsafe(_started(flags, handlers), self._loop).result()

    def stop(self, grace_seconds: float, *, first: Callable[[], None]) -> Future[None]:
        """Takes no new calls. Done when those in flight have ended, at the latest after ``grace_seconds``.

        ``first`` is called on the server's loop.
        """

        async def stop() -> None:
            first()
            await self._server.stop(grace_seconds)

        return asyncio.run_coroutine_threadsafe(stop(), self._loop)


async def _started(flags: Flags, handlers: Sequence[grpc.GenericRpcHandler]) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Otherwise two servers share one port without a word.
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
            *channel_arguments(flags.grpc_channel_arguments),
        ],
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    port = 0
    if flags.port:
        port = _bind(server, f"{flags.grpc_host}:{flags.port}", flags.ssl_config_file, "--port")
    if flags.grpc_socket_path:
        _bind(server, f"unix:{flags.grpc_socket_path}", flags.ssl_config_file, "--grpc_socket_path")
    await server.start()
    return server, port


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """
    >>> channel_arguments("grpc.max_connection_age_ms=2000,grpc.primary_user_agent=me")
    [('grpc.max_connection_age_ms', 2000), ('grpc.primary_user_agent', 'me')]
    """
    pairs = [part.partition("=") for part in text.split(",") if part]
    return [(key, int(value) if value.removeprefix("-").isdecimal() else value) for key, _, value in pairs]


def _bind(server: grpc.aio.Server, address: str, ssl_config_file: str, flag: str) -> int:
    try:
        if ssl_config_file:
            return server.add_secure_port(address, _credentials(ssl_config_file))
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotListen(f"cannot listen on {address}; give another {flag}") from error


def _credentials(path: str) -> grpc.ServerCredentials:
    """Of an SSLConfig (config/ssl_config.proto); the certificates and the key are in the file itself, as PEM text."""
    settings: Any = config.read_message(path, protos.message("SSLConfig"))
    key, certificate, authority = (
        getattr(settings, field).encode() for field in ("server_key", "server_cert", "custom_ca")
    )
    if not key or not certificate:
        raise config.ConfigError(f"{path}: server_key and server_cert must hold PEM text")
    verify = settings.client_verify
    return grpc.ssl_server_credentials([(key, certificate)], authority or None, verify)
