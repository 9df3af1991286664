"""``python -m gateway --config duet.yaml``: serves until SIGTERM or SIGINT, then drains and exits with 0."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop

from gateway.app import Gateway
from gateway.config import ConfigError, Settings, load
from gateway.logging import configure

log = logging.getLogger("duet")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: two servers run in this process and stop in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Duet's gateway")
    parser.add_argument("--config", type=Path, default=Path("duet.yaml"), help="settings file (default: %(default)s)")
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    arguments = parser.parse_args()
    try:
        settings = load(arguments.config, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.check_config:
        print(f"{arguments.config}: {len(settings.models)} models on {len(settings.servers)} servers, no fault found")
        return 0
    configure(settings.log.level)
    try:
        sockets = [_bind(settings.http.host, settings.http.port), _bind(settings.admin.host, settings.admin.port)]
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, *sockets))
    return 0


async def serve(settings: Settings, http: socket.socket, admin: socket.socket) -> None:
    gateway = Gateway(settings)
    address = f"{settings.grpc.host}:{settings.grpc.port}"
    grpc_port = gateway.grpc_server.add_insecure_port(address)
    drain_seconds = max(1, round(settings.drain_seconds))
    servers = [_server(gateway.http_app, drain_seconds), _server(gateway.admin_app, 1)]
    tasks = [asyncio.create_task(server.serve([sock])) for server, sock in zip(servers, (http, admin), strict=True)]
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal(name: str) -> None:
        log.info("%s: draining" if not stop.is_set() else "%s again: stopping at once", name)
        if stop.is_set():
            for server in servers:
                server.force_exit = True
            hurry.set()
        gateway.draining = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    await gateway.start()
    await gateway.grpc_server.start()
    log.info("serving on http://%s:%s and gRPC %s:%s", *http.getsockname()[:2], settings.grpc.host, grpc_port)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    # Readiness says no from the signal on; clients that have not noticed yet are still served for a while.
    await asyncio.sleep(settings.linger_seconds)
    servers[0].should_exit = True
    await asyncio.gather(tasks[0], _stop_grpc(gateway, drain_seconds, hurry))
    servers[1].should_exit = True
    await tasks[1]
    stopped.cancel()
    await gateway.aclose()


async def _stop_grpc(gateway: Gateway, drain_seconds: float, hurry: asyncio.Event) -> None:
    """Lets calls in flight end, for ``drain_seconds`` at most or until ``hurry`` is set."""
    stopping = asyncio.create_task(gateway.grpc_server.stop(drain_seconds))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait([stopping, hurried], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await gateway.grpc_server.stop(None)
    hurried.cancel()
    await stopping


def _server(app: object, drain_seconds: int) -> _Server:
    return _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn's own ASGI types
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            # Above the usual 60 s idle time-out of load balancers, so that they and not we close first.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=drain_seconds,
        )
    )


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"cannot listen on {host}:{port}: {reason}; choose another port") from error


if __name__ == "__main__":
    sys.exit(main())
