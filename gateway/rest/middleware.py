"""Around every request: its id and trace, where its time went, its access line and its metrics."""

from __future__ import annotations

from gateway.observation import Observer
from gateway.rest.asgi import App, Message, Receive, Scope, Send, header
from gateway.rest.browsers import SAFE
from gateway.rest.endpoint import OBSERVATION


class Observed:
    """Pure ASGI: it costs microseconds, where Starlette's BaseHTTPMiddleware takes two thirds of the throughput."""

    def __init__(self, app: App, *, observer: Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = self._observer.begin(_text(header(scope, b"x-request-id")), _text(header(scope, b"traceparent")))
        scope[OBSERVATION] = seen
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", seen.id.encode()),
                    (b"traceparent", seen.traceparent.encode()),
                    (b"server-timing", seen.server_timing().encode()),
                    *SAFE,
                ]
                if seen.notes:
                    message["headers"] += seen.notes
            elif seen.access is not None:
                seen.access.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._observer.finish(seen, method=scope["method"], path=scope["path"], status=status)


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None
