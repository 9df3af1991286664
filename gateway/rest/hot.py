"""Inference calls go straight to their endpoints; everything else goes through the whole application."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import Route

from gateway.rest.asgi import App, Receive, Scope, Send
from gateway.rest.bodiless import Bodiless


class Hot:
    """The routes of ``app`` that are plain ASGI endpoints, looked up before ``app`` is asked.

    FastAPI's own layers around a route (exceptions, telemetry, body limit, exit stack, router) cost a sixth of an
    inference request, and do nothing for endpoints that render their own errors and bound their own bodies.
    """

    def __init__(self, app: App, routes: Iterable[Route]) -> None:
        self._app = Bodiless(app)
        self._routes = [(route.path_regex.match, route.app) for route in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            for match, endpoint in self._routes:
                found = match(path)
                if found is not None:
                    scope["path_params"] = found.groupdict()
                    await endpoint(scope, receive, send)
                    return
        await self._app(scope, receive, send)
