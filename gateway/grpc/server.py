"""The one place where a gRPC server is made."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
import grpc.aio

#: Service name -> method name -> handler.
Services = Mapping[str, Mapping[str, grpc.RpcMethodHandler]]


def build(services: Services, *, max_message_bytes: int) -> grpc.aio.Server:
    """A server without a port. ``max_message_bytes`` bounds what it reads, before memory is taken for it."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", 1024),
            ("grpc.max_metadata_size", 16 << 10),
            # Otherwise a second process takes half of the calls without a word.
            ("grpc.so_reuseport", 0),
            # Clients may ping while they wait for a long call.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
    )
    for name, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, dict(methods)),))
    return server
