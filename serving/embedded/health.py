"""``grpc.health.v1``, with --enable_grpc_healthcheck_service (gRPC's default_health_check_service.cc).

It answers once the ports are open, and they open once every model serves; so what is known is SERVING until the server
stops. Services are known by their short names, as the real server registers them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf import wrappers_pb2

KNOWN = frozenset({"", "ModelService", "PredictionService"})
#: HealthCheckResponse.ServingStatus
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
# The messages of health.proto have one field each, of the same number and type as these.
Request, Response = wrappers_pb2.StringValue, wrappers_pb2.Int32Value
Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """On the server's loop, all of it but `handler`."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        coders = {
            "request_deserializer": Request.FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, **coders),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **coders),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)

    def stop(self) -> None:
        """Tell every watcher that the server goes, and end their streams, which would hold it up."""
        self._stopping.set()

    async def _check(self, request: Request, context: Context) -> Response:
        if request.value not in KNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "")
        return self._state()

    async def _watch(self, request: Request, context: Context) -> AsyncIterator[Response]:
        """Stays open whatever the name is, and tells of each change; a service that is not known never comes."""
        known = request.value in KNOWN
        yield self._state() if known else Response(value=SERVICE_UNKNOWN)
        await self._stopping.wait()
        if known:
            yield self._state()

    def _state(self) -> Response:
        return Response(value=NOT_SERVING if self._stopping.is_set() else SERVING)
