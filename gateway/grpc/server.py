"""The one place where a gRPC server is made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import grpc
import grpc.aio

from gateway.grpc.arriving import Arriving
from gateway.grpc.errors import Metadata

#: Service name -> method name -> handler.
Services = Mapping[str, Mapping[str, grpc.RpcMethodHandler]]
Transport = Literal["grpcio", "native"]
_MAX_METADATA_BYTES = 16 << 10

Options = Sequence[tuple[str, Any]]

_HANDSHAKE_MILLISECONDS = 5000
#: More than there can be: streams and connections have bounds of their own. Beyond its own, C core refuses calls that
#: wait to be taken up at random, whoever makes them: those of one caller, come all at once, cost others theirs.
_PENDING = 1 << 30


@dataclass(frozen=True, slots=True)
class Keepalive:
    """As the setting of that name (`gateway.config.Keepalive`)."""

    min_ping_seconds: float = 5.0
    permit_without_calls: bool = True
    max_ping_strikes: int = 2
    time_seconds: float = 300.0
    timeout_seconds: float = 20.0

    def options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.min_ping_seconds * 1e3)),
            # Otherwise a connection without a call may be pinged every two hours.
            ("grpc.keepalive_permit_without_calls", int(self.permit_without_calls)),
            ("grpc.http2.max_ping_strikes", self.max_ping_strikes),
            # Asks a silent client now and then whether it is there: one that lost its network never says so.
            ("grpc.keepalive_time_ms", round(self.time_seconds * 1e3)),
            ("grpc.keepalive_timeout_ms", round(self.timeout_seconds * 1e3)),
        ]


#: Connections that came before the port was closed have said what they are by then.
_SETTLE_SECONDS = 0.1


class Server:
    """grpc.aio's server, which tells open streams to end (``ending``) before it waits for the calls in flight.

    ``arriving`` looks at its connections while it runs.
    """

    def __init__(
        self,
        inner: grpc.aio.Server,
        ending: asyncio.Event,
        *,
        share_port: bool = False,
        arriving: Arriving | None = None,
    ) -> None:
        self._inner = inner
        self._ending = ending
        self._arriving = arriving
        self._shared: set[int] | None = set() if share_port else None

    def add_insecure_port(self, address: str) -> int:
        return self._added(int(self._inner.add_insecure_port(address)))

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        return self._added(int(self._inner.add_secure_port(address, credentials)))

    async def start(self) -> None:
        await self._inner.start()
        if self._arriving is not None:
            self._arriving.start()

    async def stop(self, grace_seconds: float | None) -> None:
        """Takes no new calls; those in flight have ``grace_seconds``, None for none at all."""
        self._ending.set()
        if self._shared:
            # The core tells clients to go before it has closed its port: those that come back at once would come back
            # to it, be cut off, and fail every call for the second that gRPC then waits.
            _stop_listening(self._shared)
            self._shared.clear()
            await asyncio.sleep(_SETTLE_SECONDS)
        await self._inner.stop(grace_seconds)
        if self._arriving is not None:
            self._arriving.close()

    def _added(self, port: int) -> int:
        if self._shared is not None:
            self._shared.add(port)
        if self._arriving is not None:
            self._arriving.listen(port)
        return port


def build(
    services: Services,
    *,
    max_message_bytes: int,
    ending: asyncio.Event,
    max_streams: int = 100,
    share_port: bool = False,
    transport: Transport = "grpcio",
    max_connections: int = 4096,
    pages: grpc.GenericRpcHandler | None = None,
    unknown: grpc.GenericRpcHandler | None = None,
    keepalive: Keepalive = Keepalive(),
    arriving: Arriving | None = None,
) -> Server:
    """A server without a port. ``max_message_bytes`` bounds what it reads, before memory is taken for it by grpcio.

    ``max_streams`` bounds the calls at a time of one connection. Those of all are bounded by `gateway.grpc.calls`: a
    limit of gRPC's own would count health checks with the rest. ``pages`` is asked before the services, and
    ``unknown`` answers what no service has (grpcio only).
    grpcio closes a connection beyond ``max_connections`` at once, and one that does not begin to speak HTTP/2.
    ``share_port`` lets several processes listen on one port. Otherwise a second one would take half of the calls
    without a word. ``arriving`` bounds what comes over its connections and is no message (grpcio only).
    """
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", max_streams),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        # Above the former calls are refused at random, above this all of them.
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.so_reuseport", int(share_port)),
    ]
    if transport == "native":
        return Server(_native(services, options), ending, share_port=share_port)
    # What pygrpc-native does not know.
    options += [
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MILLISECONDS),
        # It would widen what a client may send before anybody reads it, from 64 KiB a call to megabytes.
        ("grpc.http2.bdp_probe", 0),
        *keepalive.options(),
    ]
    return Server(_grpcio(services, options, pages, unknown), ending, share_port=share_port, arriving=arriving)


def _stop_listening(ports: Collection[int]) -> None:
    """Ends this process's listening on the ports. gRPC's core has no call for it, so its sockets are looked up."""
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] in ports:
                sock.shutdown(socket.SHUT_RDWR)


def _grpcio(
    services: Services, options: Options, pages: grpc.GenericRpcHandler | None, unknown: grpc.GenericRpcHandler | None
) -> grpc.aio.Server:
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_client_that_left)
    server = grpc.aio.server(options=options)
    if pages is not None:
        server.add_generic_rpc_handlers((pages,))
    for name, methods in services.items():
        handlers = {method: _early(handler) for method, handler in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    if unknown is not None:
        server.add_generic_rpc_handlers((unknown,))
    return server


def _is_no_client_that_left(record: logging.LogRecord) -> bool:
    """grpcio logs a trace for each answer whose client is gone: anybody could fill the log with them."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not _is_of_one_that_left(error)


def _is_of_one_that_left(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_one_that_left, error.exceptions))
    return type(error).__name__ == "ExecuteBatchError"  # grpcio does not export it


def _early(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """The handler as one that takes a stream of messages: it runs once the headers are there, and reads by itself.

    grpcio runs the others when their message is whole. To clients both are the same.
    """
    if handler.request_streaming:
        return handler
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(handler.unary_stream)
    return grpc.stream_unary_rpc_method_handler(handler.unary_unary)


def _native(services: Services, options: Options) -> grpc.aio.Server:
    """HTTP/2 and framing in Rust threads: a quarter of grpcio's processor time. For trusted clients only.

    It decompresses a message before it looks at its size, so that the limit bounds no memory, and has no TLS.
    """
    import pygrpc_native.aio  # `from pygrpc_native import aio` recurses

    server: grpc.aio.Server = pygrpc_native.aio.server(options=options)
    for name, methods in services.items():
        # Generic handlers would be served by a grpcio server behind a Unix socket.
        server.add_registered_method_handlers(name, {method: _cleaned(handler) for method, handler in methods.items()})
    return server


def _cleaned(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """The handler with a context that keeps back trailers which pygrpc-native would never send, nor the call's end."""
    if handler.request_streaming:
        return handler  # served by grpcio
    behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary

    async def handle(request: Any, context: Any) -> Any:
        return await behaviour(request, _CleanContext(context))

    make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return make(handle, handler.request_deserializer, handler.response_serializer)


class _CleanContext:
    """gRPC keeps names that begin with ``grpc-`` to itself; grpcio lets its retry pushback through all the same."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._inner.set_trailing_metadata(_without_reserved(metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        await self._inner.abort(code, details, _without_reserved(trailing_metadata))
        raise AssertionError("abort raises")


def _without_reserved(metadata: Metadata) -> Metadata:
    return tuple((key, value) for key, value in metadata if not key.startswith("grpc-"))
