"""Nobody gets past here who has not shown who it is: before routing, before a body is read."""

from __future__ import annotations

from gateway.errors import DuetError, PermissionDenied
from gateway.observation import Observation
from gateway.rest import asgi, errors, torchserve
from gateway.rest.endpoint import OBSERVATION
from gateway.security import certificates
from gateway.security.access import ACCESS, NOBODY, Access
from gateway.security.gate import Gate
from gateway.security.grants import Verb
from gateway.security.quotas import QuotaExceeded

#: Health, which load balancers ask without a key, and which tells of no model.
OPEN = frozenset({"/", "/ping", "/v2/health/live", "/v2/health/ready"})

#: A refused request's body up to this size is read and thrown away, so that the connection can stay.
_MAX_DISCARDED_BYTES = 64 << 10


class Guarded:
    """Pure ASGI. Stands inside `Observed`, so that who is refused is seen too."""

    def __init__(self, app: asgi.App, *, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        seen: Observation = scope[OBSERVATION]
        access = seen.access = Access(NOBODY)
        try:
            await self._gate.identify(access, *_shown(scope, self._gate))
            if asgi.BELONGS_TO in scope:
                scope[asgi.BELONGS_TO](access.identity.id)
            seen.notes = self._gate.enter(access)
        except DuetError as error:
            await refuse(error, scope, send)
            return
        try:
            ACCESS.set(access)
            scope[asgi.RECEIVED] = access
            await self._app(scope, receive, send)
        finally:
            self._gate.leave(access)


class AdminGuarded:
    """On the admin port: ``/admin`` is for who may administer everything. Probes, metrics and documents are not."""

    def __init__(self, app: asgi.App, *, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/admin"):
            await self._app(scope, receive, send)
            return
        access = Access(NOBODY, Verb.ADMIN)
        try:
            await self._gate.identify(access, *_shown(scope, self._gate))
            if not access.identity.grants.allow(Verb.ADMIN, "*"):
                raise PermissionDenied("this is for who is granted admin:*")
        except DuetError as error:
            headers = [asgi.JSON, *errors.headers(error)]
            await asgi.respond(send, errors.status(error), headers, [errors.body(error.message)])
            return
        await self._app(scope, receive, send)


def _shown(scope: asgi.Scope, gate: Gate) -> tuple[list[bytes], list[bytes], certificates.Names]:
    """As `Gate.identify` takes it."""
    authorization: list[bytes] = []
    api_key: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization.append(value)
        elif name == b"x-api-key":
            api_key.append(value)
    return authorization, api_key, certificates.of_scope(scope) if gate.reads_certificates else ()


async def refuse(error: DuetError, scope: asgi.Scope, send: asgi.Send) -> None:
    """Answers in the shape of the dialect whose path it is. Whether the request is observed depends on the port."""
    seen: Observation | None = scope.get(OBSERVATION)
    if seen is not None:
        seen.failed(error)
        if isinstance(error, QuotaExceeded):
            seen.notes = error.notes
    if scope["path"].startswith("/predictions/"):
        status, headers, body = torchserve.render(error)
    else:
        status, headers, body = errors.status(error), [asgi.JSON, *errors.headers(error)], errors.body(error.message)
    if _is_long(scope):
        headers.append((b"connection", b"close"))
    await asgi.respond(send, status, headers, [body])


def _is_long(scope: asgi.Scope) -> bool:
    """Whether what follows is more than we care to read for nothing, or of unknown length."""
    declared = asgi.header(scope, b"content-length")
    if declared is None:
        return asgi.header(scope, b"transfer-encoding") is not None
    return not declared.isdigit() or len(declared) > 9 or int(declared) > _MAX_DISCARDED_BYTES
