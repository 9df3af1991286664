"""grpc.health.v1: what load balancers, Kubernetes and gRPC's own clients ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

import grpc

from gateway.errors import NotFound, Unavailable
from gateway.grpc.calls import STOPPING, Call, Calls, Context, plain
from gateway.grpc.server import Services
from gateway.protos import health_pb2 as pb

SERVICE = "grpc.health.v1.Health"

_LOOK_SECONDS = 0.2


def services(calls: Calls, *, ready: Callable[[], bool], names: Collection[str]) -> Services:
    """``names`` are the services whose health is told; the empty name is the whole server's. All share one state."""
    known = {"", SERVICE, *names}

    def status() -> pb.HealthCheckResponse:
        serving = pb.HealthCheckResponse.SERVING if ready() else pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=serving)

    async def check(request: pb.HealthCheckRequest, _: Call) -> pb.HealthCheckResponse:
        if request.service not in known:
            raise NotFound(f"unknown service {request.service!r}")
        return status()

    async def watch(request: pb.HealthCheckRequest, context: Context) -> None:
        """Sends the state at once and at each change. A service that is not known is told as such (health.proto)."""
        unknown = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        told: pb.HealthCheckResponse | None = None
        while not calls.ending.is_set():
            now = status() if request.service in known else unknown
            if now != told:
                await context.write(now)
                told = now
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await calls.ending.wait()
        await context.abort(*plain(Unavailable(STOPPING)))

    calls.open_paths.add(f"/{SERVICE}/Watch")
    return {
        SERVICE: {
            "Check": calls.unary(check, pb.HealthCheckRequest, path=f"/{SERVICE}/Check", everybody=True),
            "Watch": grpc.unary_stream_rpc_method_handler(
                watch, pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
            ),
        }
    }
