"""grpc.health.v1: what load balancers, Kubernetes and gRPC's own clients ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from gateway.errors import NotFound
from gateway.grpc.calls import Call, Calls
from gateway.grpc.server import Services
from gateway.protos import health_pb2 as pb

SERVICE = "grpc.health.v1.Health"

_LOOK_SECONDS = 0.2


def services(calls: Calls, *, ready: Callable[[], bool], names: Collection[str]) -> Services:
    """``names`` are the services whose health is told; the empty name is the whole server's. All share one state."""
    known = {"", SERVICE, *names}
    state = State(ready, calls.ending)

    async def check(request: pb.HealthCheckRequest, _: Call) -> pb.HealthCheckResponse:
        if request.service not in known:
            raise NotFound(f"unknown service {request.service!r}")
        return pb.HealthCheckResponse(status=state.now())

    async def watch(request: pb.HealthCheckRequest, send: Callable[[pb.HealthCheckResponse], Awaitable[None]]) -> None:
        """Sends the state at once and at each change. A service that is not known is told as such (health.proto)."""
        with state.watched():
            told = None
            while not calls.ending.is_set():
                changed = state.changed
                now = state.now() if request.service in known else pb.HealthCheckResponse.SERVICE_UNKNOWN
                if now != told:
                    await send(pb.HealthCheckResponse(status=now))
                    told = now
                await changed.wait()

    return {
        SERVICE: {
            "Check": calls.unary(check, pb.HealthCheckRequest, path=f"/{SERVICE}/Check", everybody=True),
            "Watch": calls.watch(watch, pb.HealthCheckRequest),
        }
    }


class State:
    """Whether the gateway serves. While somebody watches, one task looks at it for all of them."""

    def __init__(self, ready: Callable[[], bool], ending: asyncio.Event) -> None:
        #: Set at the next change, or when the server is about to stop; another one takes its place then.
        self.changed = asyncio.Event()
        self._ready = ready
        self._ending = ending
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None

    def now(self) -> pb.HealthCheckResponse.ServingStatus:
        return pb.HealthCheckResponse.SERVING if self._ready() else pb.HealthCheckResponse.NOT_SERVING

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._watchers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(self.now()))
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look(self, told: pb.HealthCheckResponse.ServingStatus) -> None:
        while not self._ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._ending.wait()
            now = self.now()
            if now != told or self._ending.is_set():
                told = now
                self.changed.set()
                self.changed = asyncio.Event()
