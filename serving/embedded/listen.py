"""The gRPC server's ports, options and credentials."""

from __future__ import annotations

from typing import Any

import grpc

from serving.embedded import config, protos
from serving.embedded.flags import Flags
from serving.embedded.receiving import Threads

#: Protobuf's own limit, as the real server's for both ways.
MAX_MESSAGE_BYTES = (1 << 31) - 1
#: Ours, since a message lies in memory several times before the model has it; `--grpc_channel_arguments=
#: grpc.max_receive_message_length=N` sets another. A message over it is RESOURCE_EXHAUSTED.
MAX_RECEIVED_BYTES = 256 << 20


class CannotListen(Exception):
    """A port is taken, or a credential cannot be used; the text says which. ``told`` is the real server's text."""

    def __init__(self, message: str, told: str = "INVALID_ARGUMENT: Failed to BuildAndStart gRPC server") -> None:
        super().__init__(message)
        self.told = told


def listen(flags: Flags, handlers: list[grpc.GenericRpcHandler]) -> tuple[grpc.Server, int]:
    """A started server, and its TCP port (0 if it only has a socket). Raises CannotListen and ConfigError."""
    server = grpc.server(
        Threads(max(flags.grpc_max_threads, 1)),
        options=[
            ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Otherwise two servers share one port without a word.
            ("grpc.so_reuseport", 0),
            *channel_arguments(flags.grpc_channel_arguments),
        ],
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    port = 0
    if flags.port:
        port = _bind(server, f"{flags.grpc_host}:{flags.port}", flags.ssl_config_file, "--port")
    if flags.grpc_socket_path:
        _bind(server, f"unix:{flags.grpc_socket_path}", flags.ssl_config_file, "--grpc_socket_path")
    server.start()
    return server, port


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """
    >>> channel_arguments("grpc.max_connection_age_ms=2000,grpc.primary_user_agent=me")
    [('grpc.max_connection_age_ms', 2000), ('grpc.primary_user_agent', 'me')]
    """
    pairs = [part.partition("=") for part in text.split(",") if part]
    return [(key, int(value) if value.removeprefix("-").isdecimal() else value) for key, _, value in pairs]


def _bind(server: grpc.Server, address: str, ssl_config_file: str, flag: str) -> int:
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
