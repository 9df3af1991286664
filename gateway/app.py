"""The composition root: the only place that reads settings, knows every part, and says in which order they stand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.exceptions import HTTPException
from starlette.routing import Route

from gateway import __version__
from gateway.backends.base import Backend, Entry, Server
from gateway.config import Settings
from gateway.errors import DuetError
from gateway.grpc import health
from gateway.grpc import server as grpc_server
from gateway.grpc import tfserving as grpc_tfserving
from gateway.grpc import torchserve as grpc_torchserve
from gateway.grpc import v2 as grpc_v2
from gateway.grpc.admission import Admission, Unknown
from gateway.grpc.arriving import Arriving
from gateway.grpc.calls import Calls, Limits
from gateway.grpc.crowding import Places
from gateway.grpc.pages import Pages
from gateway.grpc.unread import Unread
from gateway.layering import Layering
from gateway.layers.bounds import Bounded, Bounds
from gateway.layers.deadline import Deadline
from gateway.layers.metrics import Timed
from gateway.logging import AccessLog, LineWriter, NoAccessLog, QueuedAccessLog
from gateway.metrics import Metrics
from gateway.observation import Observer
from gateway.registry import Registry
from gateway.rest import admin, errors, openapi, tfserving, torchserve, v2
from gateway.rest.asgi import App
from gateway.rest.aside import Aside
from gateway.rest.bodiless import Bodiless
from gateway.rest.browsers import Cors, Safe
from gateway.rest.fence import Fenced, Hosts
from gateway.rest.guarded import AdminGuarded, Guarded
from gateway.rest.hot import Hot
from gateway.rest.middleware import Observed
from gateway.router import Open, Router, Rule, Swapped
from gateway.securing import Securing
from gateway.security.guard import Guard
from gateway.security.proxies import Proxies
from gateway.servers.balanced import Balanced, Resolve, resolve_host
from gateway.servers.base import ServerAddress
from gateway.servers.kinds import kind_of
from gateway.servers.settings import ServerSettings
from gateway.tls import ClientTls
from gateway.workers.member import Member

#: A server's name and settings -> all of its endpoints together.
Connect = Callable[[str, ServerSettings], Server]

#: How long a start may wait for the servers to tell what they have.
_FIRST_ANSWERS_SECONDS = 2.0


class Gateway:
    """Both applications and what they share. `start` begins the background work, `aclose` ends it.

    ``member`` is this process's place among several workers: on the admin port each answers for all of them.
    ``connect`` makes the client of a server of the settings. ``resolve`` tells which addresses a host's name
    stands for now.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        member: Member | None = None,
        connect: Connect | None = None,
        resolve: Resolve = resolve_host,
    ) -> None:
        self.draining = False
        trusted = settings.trusted_proxies
        self.proxies = Proxies(trusted.networks, trusted.header) if trusted else None
        self._member = member
        self._guard: Guard | None = None
        metrics = Metrics(CollectorRegistry(), exposed=member.exposed()) if member else Metrics(_process_registry())

        @cache
        def stdout() -> LineWriter:
            """The one writer of access lines and audit lines, which must not mix within a line."""
            lost = metrics.log_lines_dropped("stdout")
            return LineWriter(sys.stdout.buffer, on_dropped=lost.inc, on_lost=lost.inc)

        self._access_log: AccessLog = QueuedAccessLog(stdout()) if settings.log.access else NoAccessLog()
        self._securing = _securing(settings, metrics, member, stdout)
        decisions = self._securing.decisions if self._securing else None
        observer = Observer(metrics=metrics, access_log=self._access_log, decisions=decisions)
        self.metrics = metrics
        opaque = frozenset(name for name, model in settings.models.items() if model.opaque)
        layers = Layering(settings, metrics)
        servers = {
            name: connect(name, server) if connect else _server(name, server, opaque, layers, resolve)
            for name, server in settings.servers.items()
        }
        self._registry = Registry(
            servers=servers,
            variants={model: settings.variants(model) for model in settings.models},
            refresh_seconds=settings.refresh_seconds,
            discover=settings.discover,
        )
        self.aside = Aside()
        router, self._backend = _stack(settings, self._registry, servers, metrics, layers, self.models)
        entry: Entry = Open(self._backend, router)
        if self._securing:
            # Around all layers: nothing below is asked without a grant.
            entry = self._guard = self._securing.guard(self._backend, router, lambda: self._registry.models)
        whole, hot = _http_app(settings, entry, observer, self)
        # Outermost what observes, so that a failure anywhere below is seen; then whose pages may call at all, and who
        # may, before anything else is done; then the way past FastAPI for inference.
        http: App = Hot(whole, hot)
        if self._securing:
            http = Guarded(http, gate=self._securing.gate)
        dialects = http
        hosts = Hosts(settings.http.allowed_hosts, listens_on=settings.http.host)
        http = Fenced(http, hosts=hosts, port="http", origins=settings.http.cors_origins)
        self.http_app: App = Observed(http, observer=observer)
        if settings.http.cors_origins:
            self.http_app = Cors(self.http_app, origins=settings.http.cors_origins)
        self.grpc_server = _grpc_server(settings, entry, observer, self, self._securing)
        own: App = Bodiless(
            admin.build(metrics=metrics, ready=self.ready, openapi=whole.openapi, backends=layers.state)
        )
        if self._securing:
            own = AdminGuarded(own, gate=self._securing.gate)
        hosts = Hosts(settings.admin.allowed_hosts, listens_on=settings.admin.host)
        own, dialects = (Fenced(app, hosts=hosts, port="admin") for app in (own, dialects))
        self.admin_app: App = admin.WithDialects(Safe(own), dialects=Observed(dialects, observer=observer))

    def ready(self) -> bool:
        """True while at least one model is ready, in every worker, and the gateway is not about to stop."""
        return self._member.whole_ready if self._member else self.own_ready()

    def own_ready(self) -> bool:
        return not self.draining and self._registry.any_ready

    def models(self) -> Iterable[str]:
        """Those that the caller may be told of."""
        return self._guard.visible() if self._guard else self._registry.models

    async def start(self) -> None:
        """What it serves is known afterwards, unless a server is silent: the first request is no 503."""
        if self._securing:
            self._securing.start()
        self._registry.start()
        await self._registry.asked(seconds=_FIRST_ANSWERS_SECONDS)
        if self._member:
            self._member.tell(self.own_ready)

    def drain(self) -> None:
        """From now on it is not ready; it goes on serving until its servers are stopped."""
        self.draining = True
        if self._member:
            self._member.leave()

    async def aclose(self) -> None:
        await self._registry.aclose()
        await self._backend.aclose()
        await self.aside.aclose()
        if self._securing:
            await self._securing.aclose()
        self._access_log.close()


def _securing(
    settings: Settings, metrics: Metrics, member: Member | None, stdout: Callable[[], LineWriter]
) -> Securing | None:
    """None where everybody may do everything. That this is meant, `gateway.config.require_auth` has seen to."""
    if settings.auth is None or settings.auth.mode == "off":
        return None
    return Securing(settings.auth, registry=metrics.registry, member=member, stdout=stdout)


def _stack(
    settings: Settings,
    registry: Registry,
    servers: dict[str, Server],
    metrics: Metrics,
    layers: Layering,
    models: Callable[[], Iterable[str]],
) -> tuple[Router, Backend]:
    """The router, and the layers, outermost first:

    deadline -> swap -> bounds -> router -> per server: cache -> limit -> batching -> retry -> hedge -> metrics
    -> balance -> per endpoint: validation -> client

    The deadline is around all the rest, so that nothing a layer does can outlive it. The swap is inside it: another
    try, by another version, has no time of its own. Bounds are inside the swap, since a body that is decoded again has
    other tensors, and before the router: what is too large is refused before anything is spent on it. The cache is
    inside the router, since its keys need the version that was resolved, and outside the rest: what it has need not
    wait for anything. The limit comes before all that queues, so that overload is refused early. Batching is outside
    retry, so that a batch is retried whole; the batches that it asks again, as samples, go around retry, hedge and
    metrics, so that no caller pays for them. Metrics are inside retry, so that they time one attempt; totals per
    request are observed at the fronts, where bad requests are seen. Retry is outside balance, so that another endpoint
    can be taken. Breakers are asked by balance and are no layer around it: whether a call is let through decides where
    it goes. Validation is inside that, since what is no answer counts against the endpoint that gave it.
    """
    backends: dict[str, Backend] = {}
    for name, server in servers.items():
        timed = Timed(server, metrics=metrics, variant=name)
        retried = layers.retried(layers.hedged(timed, name), name)
        batched = layers.batched(retried, name, registry, again=server)
        backends[name] = layers.cached(layers.limited(batched, name, registry), name, registry)
    rules = {
        name: Rule(settings.default_variant(name), model.allow_non_finite) for name, model in settings.models.items()
    }
    router = Router(registry=registry, backends=backends, rules=rules)
    deadlines = {name: model.deadline_seconds for name, model in settings.models.items() if model.deadline_seconds}
    inner: Backend = router
    if settings.bounds.enabled:
        inner = Bounded(router, bounds=Bounds(**settings.bounds.model_dump(exclude={"enabled"})))
    swapped = Swapped(inner, router=router, registry=registry, models=models)
    return router, Deadline(swapped, default_seconds=settings.default_deadline_seconds, models=deadlines)


def _server(name: str, settings: ServerSettings, opaque: frozenset[str], layers: Layering, resolve: Resolve) -> Server:
    """All addresses of one server together. ``opaque`` names the models whose bodies are passed on as they are."""
    kind, files = kind_of(settings), settings.tls
    host, port = settings.host, settings.port
    tls = ClientTls(name=files.name or host, ca=files.ca, cert=files.cert, key=files.key) if files else None

    def connect(address: str) -> Server:
        at = ServerAddress(name, f"[{address}]" if ":" in address else address, port, tls, opaque)
        return layers.validated(kind.connect(settings, at))

    layers.servers[name] = Balanced(
        name=kind.title,
        resolve=lambda: resolve(host, port),
        connect=connect,
        guard=lambda address: layers.guard(name, address),
        by_pace=layers.balanced,
        again=lambda model: layers.again(name, model),
    )
    return layers.servers[name]


def _http_app(
    settings: Settings, entry: Entry, observer: Observer, gateway: Gateway
) -> tuple[FastAPI, Sequence[Route]]:
    """The whole application, and those of its routes that are plain ASGI endpoints."""
    app = FastAPI(
        title="Duet", version=__version__, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    metrics, max_body_bytes = observer.metrics, settings.http.max_body_bytes
    aside = gateway.aside
    infer_routes = v2.Infer(entry, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes).routes()
    hot = [
        *infer_routes,
        *tfserving.routes(entry, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes, models=gateway.models),
        *torchserve.routes(entry, ready=gateway.ready, aside=aside, metrics=metrics, max_body_bytes=max_body_bytes),
    ]
    app.router.routes.extend(hot)
    app.include_router(
        v2.information(entry, ready=gateway.ready, models=gateway.models, statistics=observer.statistics)
    )
    app.add_exception_handler(DuetError, _render_error)
    app.add_exception_handler(HTTPException, _render_http_exception)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            # The port that the document came from: its page may call no other.
            schema["servers"] = [{"url": "/"}]
            schema.setdefault("components", {}).setdefault("schemas", {}).update(openapi.SCHEMAS)
            openapi.complete(schema["paths"])
            for route in infer_routes:
                schema["paths"][route.path] = {"post": openapi.infer_operation(route.path)}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return app, hot


def _grpc_server(
    settings: Settings, entry: Entry, observer: Observer, gateway: Gateway, securing: Securing | None
) -> grpc_server.Server:
    unread = Unread(
        max_bytes=settings.max_bytes_in_flight,
        stall_seconds=settings.grpc.stall_seconds,
        bytes_per_second=settings.grpc.bytes_per_second,
        on_cut=observer.metrics.cut("unread").inc,
    )
    admission = Admission(securing.gate) if securing else None
    limits = Limits(
        max_calls=settings.grpc.max_calls,
        max_watches=settings.grpc.max_watches,
        caller_share=settings.grpc.caller_share,
        receive_seconds=settings.grpc.receive_seconds,
        stream_idle_seconds=settings.grpc.stream_idle_seconds,
        max_bytes=settings.max_bytes_in_flight,
        max_message_bytes=settings.grpc.max_message_bytes,
    )
    places = Places(settings.grpc.max_connections, settings.grpc.connection_share)
    arriving = Arriving(
        limits.arriving(),
        on_cut=lambda reason: observer.metrics.cut(reason).inc(),
        proxies=gateway.proxies,
        places=places,
    )
    calls = Calls(observer, unread=unread, admission=admission, limits=limits, arriving=arriving)
    services = {
        **grpc_v2.services(entry, calls, ready=gateway.ready, models=gateway.models),
        **grpc_tfserving.services(entry, calls),
        **grpc_torchserve.services(entry, calls, ready=gateway.ready, aside=gateway.aside),
    }
    services |= health.services(calls, ready=gateway.ready, names=services)
    if settings.grpc.reflection:
        from gateway.grpc import reflection  # its package is imported where it is used

        services |= reflection.services(calls, names=services)
    return grpc_server.build(
        services,
        max_message_bytes=settings.grpc.max_message_bytes,
        max_streams=settings.grpc.max_streams,
        ending=calls.ending,
        share_port=settings.workers > 1,
        max_connections=places.of_core,
        transport=settings.grpc.transport,
        keepalive=grpc_server.Keepalive(**settings.grpc.keepalive.model_dump()),
        pages=Pages(settings.http.cors_origins),
        unknown=Unknown(admission, observer, arriving) if admission else None,
        arriving=arriving,
    )


async def _render_error(_: Request, error: Exception) -> Response:
    error = cast(DuetError, error)
    headers = {name.decode(): value.decode() for name, value in errors.headers(error)}
    return Response(errors.body(error.message), errors.status(error), headers, "application/json")


async def _render_http_exception(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405, in the shape that v2 clients can read."""
    error = cast(HTTPException, error)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}"
    return Response(errors.body(text), error.status_code, error.headers, "application/json")


def _process_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
