"""What browsers need to be told: nothing to guess, nothing to keep, and which websites' pages may call (CORS)."""

from __future__ import annotations

from collections.abc import Collection

from gateway.rest.asgi import App, Headers, Message, Receive, Scope, Send, header, respond

SAFE: Headers = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

_METHODS = b"GET, POST, OPTIONS"
_SENT = (
    b"authorization, content-encoding, content-type, inference-header-content-length, traceparent, x-api-key, "
    b"x-duet-criticality, x-duet-signature, x-duet-timeout-ms, x-duet-variant, x-request-id"
)
_READ = b"inference-header-content-length, retry-after, server-timing, x-duet-variant, x-duet-version, x-request-id"
_ORIGIN = b"access-control-allow-origin"


class Safe:
    """Adds `SAFE` to every answer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _adding(send, SAFE))


class Cors:
    """Lets pages of ``origins`` call; without cookies or other credentials of the browser's own.

    A question whether they may (a preflight) is answered here, before anybody asks for a key: browsers send none.
    """

    def __init__(self, app: App, *, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = header(scope, b"origin") if scope["type"] == "http" else None
        if origin is None or origin not in self._origins:
            await self._app(scope, receive, send)
            return
        allowed: Headers = [(_ORIGIN, origin), (b"vary", b"origin")]
        if scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None:
            may = [(b"access-control-allow-methods", _METHODS), (b"access-control-allow-headers", _SENT)]
            await respond(send, 200, [*allowed, *may, (b"access-control-max-age", b"600"), *SAFE], [b""])
            return
        await self._app(scope, receive, _adding(send, [*allowed, (b"access-control-expose-headers", _READ)]))


def _adding(send: Send, headers: Headers) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return send_with_headers
