"""The ways on which the tests of fronts reach a gateway: what a client sees is the same on each of them.

A new transport is a new entry here, and the suites in ``rest/`` and ``grpc/`` run over it too. A test of what only a
socket has (heads byte by byte, a client of its own, a process) says so: ``@over(SOCKET)``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import pytest

from gateway.app import Gateway
from gateway.config import Settings
from gateway.rest.asgi import App
from tests.gateway.conftest import RunningGateway, infer, start_gateway, wait_for

T = TypeVar("T")


class Served(Protocol):
    """A gateway that answers, however it is reached."""

    client: httpx.Client
    admin: httpx.Client

    def infer(self, model: str, values: list[float], **headers: str) -> httpx.Response: ...

    def wait_until(self, path: str, status: int) -> None: ...

    def stop(self) -> int: ...


class InProcess:
    """The applications alone, without a server, a socket or a process around them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        given = {"refresh_seconds": 0.2, "auth": {"mode": "off"}, "log": {"access": False}, **settings}
        self.gateway = run_in_loop(_started(Settings.model_validate(given)))
        self.client, self.admin = (
            httpx.Client(base_url="http://127.0.0.1:8000", timeout=20, transport=_Asgi(app))
            for app in (self.gateway.http_app, self.gateway.admin_app)
        )

    def infer(self, model: str, values: list[float], **headers: str) -> httpx.Response:
        return infer(self.client, model, values, **headers)

    def wait_until(self, path: str, status: int) -> None:
        wait_for(lambda: self.client.get(path).status_code == status, f"{path} to answer {status}")

    def stop(self) -> int:
        self.client.close()
        self.admin.close()
        run_in_loop(self.gateway.aclose())
        return 0


async def _started(settings: Settings) -> Gateway:
    gateway = Gateway(settings)
    await gateway.start()
    return gateway


class _Asgi(httpx.BaseTransport):
    """Calls an application on the loop that all of them share. It changes nothing of an answer: a HEAD's body shows."""

    def __init__(self, app: App) -> None:
        self._transport = httpx.ASGITransport(app)  # type: ignore[arg-type]  # httpx's own ASGI types

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return run_in_loop(
            self._answered(httpx.Request(request.method, request.url, headers=request.headers, content=request.read()))
        )

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        answer = await self._transport.handle_async_request(request)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        body = b"".join([piece async for piece in answer.stream])
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(body))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for the whole session, in a thread of its own: tests are no coroutines."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="in-process gateways", daemon=True).start()
    return loop


def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
    future: Future[T] = asyncio.run_coroutine_threadsafe(work, _loop())
    return future.result(60)


SOCKET, ASGI = "socket", "asgi"
#: How REST is reached: the real process with uvicorn and our connection, as in production; or the application itself.
REST: Mapping[str, Callable[[dict[str, Any], Path], Served]] = {
    SOCKET: start_gateway,
    ASGI: lambda settings, folder: InProcess(settings),
}
#: How gRPC is served: values of the setting ``grpc.transport``.
GRPC = ("grpcio", "native")


def over(*transports: str) -> pytest.MarkDecorator:
    """Runs a test on these transports alone."""
    return pytest.mark.parametrize("gateway", transports, indirect=True)


@contextmanager
def serving(transport: str, settings: dict[str, Any], folder: Path, *ready: str) -> Iterator[Any]:
    """A gateway on the transport, once the models ``ready`` (as ``name@variant``) are."""
    running = REST[transport](settings, folder)
    try:
        for model in ready:
            running.wait_until(f"/v2/models/{model}/ready", 200)
        yield running
    finally:
        assert running.stop() == 0


@contextmanager
def serving_grpc(transport: str, settings: dict[str, Any], folder: Path, *ready: str) -> Iterator[RunningGateway]:
    """The real process with this transport for gRPC."""
    grpc_settings = {**settings.get("grpc", {}), "transport": transport}
    with serving(SOCKET, {**settings, "grpc": grpc_settings}, folder, *ready) as running:
        yield running
        assert "Traceback" not in running.log.read_text()
