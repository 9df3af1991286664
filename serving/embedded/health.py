"""``grpc.health.v1``, with --enable_grpc_healthcheck_service (gRPC's default_health_check_service.cc).

It answers once the ports are open, and they open once every model serves; so what is known is SERVING until the server
stops. Services are known by their short names, as the real server registers them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
from google.protobuf import wrappers_pb2

KNOWN = frozenset({"", "ModelService", "PredictionService"})
#: HealthCheckResponse.ServingStatus
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
# The messages of health.proto have one field each, of the same number and type as these.
Request, Response = wrappers_pb2.StringValue, wrappers_pb2.Int32Value
Send = Callable[[Response], None]


class Health:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopping = False
        self._watchers: set[Send] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        # gRPC's Python server lets a stream go on without a thread where its behaviour says so, in this way; its own
        # health service (grpcio-health-checking) does the same.
        def watch(request: Request, context: grpc.ServicerContext, send_response_callback: Send) -> None:
            self._watch(request, context, send_response_callback)

        watch.experimental_non_blocking = True  # type: ignore[attr-defined]
        coders = {
            "request_deserializer": Request.FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, **coders),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, **coders),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)

    def stop(self) -> None:
        """Tell every watcher that the server goes, and end their streams, which would hold it up."""
        with self._lock:
            self._stopping, watchers = True, list(self._watchers)
        for send in watchers:
            send(Response(value=NOT_SERVING))
            send(None)

    def _check(self, request: Request, context: grpc.ServicerContext) -> Response:
        if request.value not in KNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "")
        return Response(value=NOT_SERVING if self._stopping else SERVING)

    def _watch(self, request: Request, context: grpc.ServicerContext, send: Send) -> None:
        """Stays open whatever the name is, and tells of each change; a service that is not known never comes."""

        def forget() -> None:
            with self._lock:
                self._watchers.discard(known)

        def known(response: Response | None) -> None:
            if response is None or request.value in KNOWN:
                send(response)

        with self._lock:
            state = NOT_SERVING if self._stopping else SERVING
            self._watchers.add(known)
        send(Response(value=state if request.value in KNOWN else SERVICE_UNKNOWN))
        if not context.add_callback(forget):
            forget()
