"""One process that serves, alone or as one of several workers: sockets, signals, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
import uvloop

from gateway.app import Connect, Gateway
from gateway.config import Address, Grpc, Http, Settings, Tls
from gateway.rest.connection import Crowd, Patience
from gateway.rest.head import Limits
from gateway.rest.room import Room, Shares
from gateway.rest.spread import Spread
from gateway.servers.balanced import Resolve, resolve_host
from gateway.tls import ServerTls
from gateway.watchdog import Watchdog
from gateway.workers import listen
from gateway.workers.files import allow_open_files, connections_within
from gateway.workers.member import Member, when_orphaned
from gateway.workers.order import Order

log = logging.getLogger("duet")


def run(settings: Settings, *, connect: Connect | None = None, resolve: Resolve = resolve_host) -> None:
    """Serves until told to stop. Raises OSError where it cannot listen. The others are as `Gateway` takes them."""
    http, admin = (listen.alone(address.host, address.port) for address in (settings.http, settings.admin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, http, admin, grpc_port=settings.grpc.port, connect=connect, resolve=resolve))


def run_worker(order: Order, *, connect: Connect | None = None) -> None:
    """The same, on the supervisor's sockets, and until the supervisor is gone."""
    member = Member(order)
    http, admin = socket.socket(fileno=order.http), socket.socket(fileno=order.admin)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(order.settings, http, admin, grpc_port=order.grpc_port, member=member, connect=connect))


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: two servers run in this process and stop in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    settings: Settings,
    http: socket.socket,
    admin: socket.socket,
    *,
    grpc_port: int,
    member: Member | None = None,
    connect: Connect | None = None,
    resolve: Resolve = resolve_host,
) -> None:
    connections = connections_within(allow_open_files(), settings.http.max_connections)
    gateway = Gateway(settings, member=member, connect=connect, resolve=resolve)
    room, spread = _room(settings), Spread()
    tls = {name: _tls(name, listener.tls) for name, listener in _listeners(settings)}
    crowds = [
        _crowd(settings, gateway, connections, room, tls["http"], spread, seen=True),
        _crowd(settings, gateway, max(16, connections // 16), room, tls["admin"], spread, seen=False),
    ]
    grpc_port = _listen_grpc(gateway, settings.grpc.host, grpc_port, tls["grpc"])
    drain_seconds = max(1, round(settings.drain_seconds))
    servers = [
        _server(gateway.http_app, drain_seconds, crowds[0]),
        _server(gateway.admin_app, 1, crowds[1]),
    ]
    watchdog = Watchdog(admin, limit_seconds=settings.max_lag_seconds)
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal(name: str) -> None:
        log.info("%s: draining" if not stop.is_set() else "%s again: stopping at once", name)
        if stop.is_set():
            for server in servers:
                server.force_exit = True
            hurry.set()
        gateway.drain()
        crowds[0].draining = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    if member:
        when_orphaned(lambda: on_signal("the supervisor is gone"))
    for crowd in crowds:
        crowd.start()
    watchdog.start()
    await gateway.start()
    tasks = [asyncio.create_task(server.serve([sock])) for server, sock in zip(servers, (http, admin), strict=True)]
    await gateway.grpc_server.start()
    _begin_collecting()
    address = listen.authority(*http.getsockname()[:2])
    log.info(
        "serving on %s://%s and gRPC %s",
        "https" if tls["http"] else "http",
        address,
        listen.authority(settings.grpc.host, grpc_port),
    )
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if member is None or member.whole_draining:
        # Readiness says no from the signal on; clients that have not noticed yet are still served for a while.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), settings.linger_seconds)
    servers[0].should_exit = True
    await asyncio.gather(tasks[0], _stop_grpc(gateway, drain_seconds, hurry))
    servers[1].should_exit = True
    await tasks[1]
    stopped.cancel()
    for crowd in crowds:
        crowd.close()
    watchdog.stop()
    await gateway.aclose()


def _begin_collecting() -> None:
    """Turns on the garbage collector, which `__main__` has turned off: what was built until now stays for good."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()


def _listeners(settings: Settings) -> Iterator[tuple[str, Http | Grpc | Address]]:
    yield from (("http", settings.http), ("grpc", settings.grpc), ("admin", settings.admin))


def _tls(name: str, files: Tls | None) -> ServerTls | None:
    try:
        return ServerTls(cert=files.cert, key=files.key, client_ca=files.client_ca) if files else None
    except OSError as error:
        raise OSError(f"{name}.tls: {error}") from error


def _listen_grpc(gateway: Gateway, host: str, port: int, tls: ServerTls | None) -> int:
    address = listen.authority(host, port)
    try:
        if tls is not None:
            return gateway.grpc_server.add_secure_port(address, tls.grpc_credentials())
        return gateway.grpc_server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(
            f"cannot listen on {address}: another process does, or it is no address; choose another"
        ) from error


async def _stop_grpc(gateway: Gateway, drain_seconds: float, hurry: asyncio.Event) -> None:
    """Lets calls in flight end, for ``drain_seconds`` at most or until ``hurry`` is set."""
    stopping = asyncio.create_task(gateway.grpc_server.stop(drain_seconds))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait([stopping, hurried], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await gateway.grpc_server.stop(None)
    hurried.cancel()
    await stopping


def _room(settings: Settings) -> Room:
    """For the bodies of both ports."""
    shares = settings.http.shares
    return Room(
        settings.max_bytes_in_flight, Shares(shares.caller, shares.connection, shares.small, shares.small_bytes)
    )


def _crowd(
    settings: Settings,
    gateway: Gateway,
    max_connections: int,
    room: Room,
    tls: ServerTls | None,
    spread: Spread,
    *,
    seen: bool,
) -> Crowd:
    """``seen``: the metrics of connections are those of these."""
    http, metrics = settings.http, gateway.metrics

    def look(connections: int, held_bytes: int) -> None:
        if seen:
            metrics.connections.set(connections)
            metrics.body_bytes.set(held_bytes)

    return Crowd(
        Patience(
            headers_seconds=http.headers_seconds,
            body_seconds=http.body_seconds,
            bytes_per_second=http.bytes_per_second,
            rate_seconds=http.rate_seconds,
            stall_seconds=http.stall_seconds,
            idle_seconds=http.idle_seconds,
        ),
        max_connections=max_connections,
        room=room,
        share=http.shares.connections,
        limits=Limits(http.max_url_bytes, http.max_header_bytes, http.max_headers),
        on_cut=lambda reason: metrics.cut(reason).inc(),
        on_look=look,
        proxies=gateway.proxies,
        tls=tls.context() if tls else None,
        spread=spread,
    )


def _server(app: object, drain_seconds: int, crowd: Crowd) -> _Server:
    return _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn's own ASGI types
            http=crowd.protocol,  # type: ignore[arg-type]  # called as the class would be
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nobody asks who the client is
            timeout_keep_alive=round(crowd.patience.idle_seconds) or 1,
            timeout_graceful_shutdown=drain_seconds,
        )
    )
