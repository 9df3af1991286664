"""What the clients of servers that are called over gRPC share: a channel, and what is left of a request's time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from gateway import errors
from gateway.tls import ClientTls
from gateway.types import InferRequest

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 64 << 20),
    # A server that comes back is called again within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

#: Of a request's time, what its answer needs from the server to the client.
_WAY_BACK_SECONDS = 0.005

_LAST_CALLS_SECONDS = 60.0


class Channel:
    """A gRPC channel to one endpoint. ``methods``: the full name of each and the class of its request.

    Answers are bytes: grpc.aio gives None for what it cannot parse.
    """

    def __init__(self, endpoint: str, methods: Mapping[str, type[Message]], *, tls: ClientTls | None = None) -> None:
        self._endpoint = endpoint
        self._methods = methods
        self._tls, self._tls_version = tls, 0
        self._closing: set[asyncio.Task[None]] = set()
        self._open()

    def call(self, method: str) -> Any:
        """What makes a call when it is called itself, with the request and ``timeout``."""
        return self._calls[method]

    def renew(self) -> None:
        """Other certificates need another channel; calls on the one before may end there."""
        if self._tls is None:
            return
        self._tls.read()
        if self._tls.version != self._tls_version:
            closing = asyncio.create_task(self._channel.close(_LAST_CALLS_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._open()

    async def aclose(self) -> None:
        await self._channel.close()

    def _open(self) -> None:
        if self._tls is None:
            self._channel = grpc.aio.insecure_channel(self._endpoint, options=_OPTIONS)
        else:
            self._tls_version = self._tls.version
            options = (*_OPTIONS, ("grpc.ssl_target_name_override", self._tls.name))
            self._channel = grpc.aio.secure_channel(self._endpoint, self._tls.grpc_credentials(), options=options)
        self._calls = {
            name: self._channel.unary_unary(name, request_serializer=request.SerializeToString)
            for name, request in self._methods.items()
        }


def seconds_left(request: InferRequest) -> float | None:
    """What the server may take: the rest is the answer's way back. Raises DeadlineExceeded if nothing is left."""
    if request.deadline is None:
        return None
    left = request.deadline - asyncio.get_running_loop().time() - _WAY_BACK_SECONDS
    if left <= 0:
        raise errors.DeadlineExceeded(f"{request.model} could not be asked before the request's deadline")
    return left
