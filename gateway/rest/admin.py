"""What operators need, on a port of its own: metrics, probes, documentation, and the dialects for its pages."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from gateway import __version__
from gateway.metrics import Metrics
from gateway.rest.asgi import App, Receive, Scope, Send
from gateway.rest.sparing import Sparing

#: The paths of this port's own, and all below them.
_OWN = ("/metrics", "/healthz", "/readyz", "/admin", "/openapi.json", "/docs")

#: Swagger UI, served from here: an operator's browser may reach nothing but this port.
_SWAGGER = Path(__file__).parent / "swagger"


class WithDialects:
    """Everything that is not the admin port's own goes to ``dialects``, as on the HTTP port and for the same keys.

    So the documentation page calls the port that it came from, and no page needs leave to call another port.
    """

    def __init__(self, app: App, *, dialects: App) -> None:
        self._app = app
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = f"{scope['path']}/" if scope["type"] == "http" else ""
        own = any(path.startswith(f"{name}/") for name in _OWN)
        await (self._app if own else self._dialects)(scope, receive, send)


def build(
    *,
    metrics: Metrics,
    ready: Callable[[], bool],
    openapi: Callable[[], dict[str, Any]],
    backends: Callable[[], dict[str, Any]],
) -> FastAPI:
    """``backends`` tells what this process knows of its servers; each of several workers knows its own."""
    app = FastAPI(title="Duet administration", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)

    rendered = Sparing(metrics.exposition)

    @app.get("/metrics", response_class=Response)
    async def exposition() -> Response:
        return Response(await rendered(), media_type="text/plain; version=0.0.4")

    @app.get("/healthz", response_class=Response)
    async def alive() -> Response:
        return Response(orjson.dumps({"live": True}), media_type="application/json")

    @app.get("/readyz", response_class=Response)
    async def is_ready() -> Response:
        answer = ready()
        return Response(orjson.dumps({"ready": answer}), 200 if answer else 503, media_type="application/json")

    @app.get("/admin/backends", response_class=Response)
    async def live_picture() -> Response:
        """Each server's endpoints, what is out and why, the limits, the retries left; whose rows are joined, and why.

        Nothing can be changed here. Batching that a sample has turned off comes back with another version, or when the
        gateway is restarted.
        """
        told = {"pid": os.getpid(), "servers": backends()}
        return Response(orjson.dumps(told, option=orjson.OPT_INDENT_2), media_type="application/json")

    @app.get("/openapi.json", response_class=Response)
    async def document() -> Response:
        return Response(orjson.dumps(openapi()), media_type="application/json")

    @app.get("/docs", response_class=HTMLResponse)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Duet",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="/docs/favicon-32x32.png",
            # Otherwise the page sends the document to a public validator.
            swagger_ui_parameters={"validatorUrl": None},
        )

    @app.get("/docs/swagger-ui-bundle.js", response_class=Response)
    def script() -> Response:
        """Kept compressed, since it is large. No coroutine: a thread inflates it, and requests go on meanwhile."""
        return Response(_script(), media_type="text/javascript")

    app.mount("/docs", StaticFiles(directory=_SWAGGER))

    return app


@cache
def _script() -> bytes:
    """Inflated once: whoever asks and does not read would hold megabytes of its own."""
    return gzip.decompress((_SWAGGER / "swagger-ui-bundle.js.gz").read_bytes())
