"""HEAD is answered wherever GET is, in every dialect and on the admin port: as GET, without the body.

The paths are the application's own, so that a new one is held to it too.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway
from tests.gateway.transports import REST, SOCKET, InProcess, Served, over, serving

#: What stands in a route's place for a model, a version, and the rest of a path.
FILLED = {"model": "double", "version": "1", "path:path": "double", "rest:path": "models/double"}
#: Of routes that take any rest of a path, those that are meant.
MORE = [
    "/v1/models",
    "/v1/models/double/metadata",
    "/v1/models/double/versions/1",
    "/v1/models/double/versions/1/metadata",
    "/v1/models/double@pytorch",
    "/v1/models/nobody",
    "/v2/models/nobody",
    "/v2/models/double/versions/9/ready",
    "/predictions/double/1.0",
    "/nowhere",
]
ADMIN_MORE = ["/docs/swagger-ui.css", "/docs/nothing"]
#: They say something of their own of each request.
OWN = {"x-request-id", "traceparent", "server-timing", "date", "connection", "etag", "last-modified"}


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, Any]]:
    tensorflow, pytorch = FakeTFServing({"double": [1]}), FakeTorchServe({"double": ["1.0"]})
    yield {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}},
    }
    tensorflow.close()
    pytorch.close()


@pytest.fixture(scope="module", params=REST)
def gateway(
    request: pytest.FixtureRequest, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    with serving(request.param, settings, folder, "double@tensorflow", "double@pytorch") as running:
        yield running


@pytest.fixture(scope="module")
def applications(settings: dict[str, Any]) -> Iterator[tuple[FastAPI, FastAPI]]:
    """The one for clients, and the admin port's."""
    made = InProcess(settings)
    yield whole(made.gateway.http_app), whole(made.gateway.admin_app)
    made.stop()


def whole(app: Any) -> FastAPI:
    """The application within everything that stands around it."""
    while not isinstance(app, FastAPI):
        app = app._app
    return app


def paths(app: FastAPI, method: str) -> list[str]:
    """Of the routes that this method reaches."""
    found = [route.path for route in every(app.routes) if not route.methods or method in route.methods]
    return [re.sub(r"\{([^}]+)\}", lambda name: FILLED[name[1]], path) for path in found]


def every(routes: Sequence[Any]) -> Iterator[Route]:
    """Those of included routers too, which FastAPI keeps as they are."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from every(route.original_router.routes)
        elif isinstance(route, Route):
            yield route


def compared(client: httpx.Client, path: str) -> int:
    asked, headed = client.get(path), client.head(path)
    assert headed.status_code == asked.status_code, path
    assert headed.content == b"", path
    names = [set(answer.headers) - OWN for answer in (asked, headed)]
    assert names[0] == names[1], path
    changing = {"content-length"} if path in ("/metrics", "/admin/backends", "/v2/models/stats") else set()
    for name in names[0] - changing:
        assert headed.headers[name] == asked.headers[name], (path, name)
    assert "content-length" in headed.headers, path
    return headed.status_code


def test_head_is_get_without_a_body_on_every_path(gateway: Served, applications: tuple[FastAPI, FastAPI]) -> None:
    """One after the other on one connection: a body too much, or one that is waited for, would spoil the next."""
    statuses = {path: compared(gateway.client, path) for path in [*paths(applications[0], "GET"), *MORE]}
    assert {"/v2", "/v2/models/double", "/v2/models/double/versions/1/ready", "/", "/ping"} <= statuses.keys()
    good = [path for path, status in statuses.items() if status == 200]
    assert len(good) >= 20, statuses
    assert {path for path, status in statuses.items() if status == 404} >= {"/nowhere", "/v2/models/nobody"}


def test_head_is_get_without_a_body_on_the_admin_port(gateway: Served, applications: tuple[FastAPI, FastAPI]) -> None:
    statuses = {path: compared(gateway.admin, path) for path in [*paths(applications[1], "GET"), *ADMIN_MORE]}
    assert statuses.pop("/docs/nothing") == 404
    assert {"/metrics", "/healthz", "/readyz", "/admin/backends", "/openapi.json", "/docs"} <= statuses.keys()
    assert all(status == 200 for status in statuses.values()), statuses


def test_head_is_405_where_only_post_is_taken(gateway: Served, applications: tuple[FastAPI, FastAPI]) -> None:
    """TensorFlow Serving calls any such request malformed, and says 400 to GET; HEAD is told the method."""
    both = set(paths(applications[0], "POST")) - set(paths(applications[0], "GET"))
    assert "/v2/models/double/infer" in both
    for path in (*both, "/v1/models/double:predict", "/v1/models/double/versions/1:classify"):
        answer = gateway.client.head(path)
        assert (answer.status_code, answer.content) == (405, b""), path
        assert answer.headers["allow"] == "POST", path


@over(SOCKET)
def test_a_head_leaves_nothing_on_its_connection(gateway: RunningGateway) -> None:
    """Byte by byte what comes: three heads in one packet, and the answer to the GET behind them."""
    head = b"HEAD /v2/models/double HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.client.base_url.port or 0), 20) as sock:
        sock.sendall(3 * head + last)
        answer = b""
        while data := sock.recv(65_536):
            answer += data
    *heads, end = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [len(piece.split(b"\r\n\r\n", 1)[1]) for piece in heads] == [0, 0, 0]
    assert end.split(b"\r\n\r\n", 1)[1] == b'{"live":true}'
