"""Models whose handler is the user's own: what goes in comes to it untouched, and so does its answer to the client."""

from __future__ import annotations

import io
from typing import Any, cast

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from gateway.backends.base import Backend
from gateway.errors import InvalidArgument
from gateway.logging import NoAccessLog
from gateway.metrics import Metrics
from gateway.observation import Observer
from gateway.rest import torchserve
from gateway.rest.middleware import Observed

pytestmark = pytest.mark.anyio


class Echo:
    """Answers with what it got."""

    variant = "pytorch"

    async def forward(
        self, model: str, version: int | None, body: bytes, content_type: str | None
    ) -> tuple[bytes, str | None]:
        if body == b"bad":
            raise InvalidArgument("the handler says no")
        return f"{model} {version} {content_type} ".encode() + body, content_type


@pytest.fixture
def client() -> httpx.AsyncClient:
    metrics = Metrics(CollectorRegistry())
    # No call here comes to the backend of the other models.
    backend = cast(Backend, None)
    routes = torchserve.routes(
        backend, ready=lambda: True, metrics=metrics, max_body_bytes=1000, opaque={"mine": Echo()}
    )
    app: Any = Observed(Starlette(routes=routes), observer=Observer(metrics=metrics, access_log=NoAccessLog()))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_body_and_type_are_passed_on_both_ways(client: httpx.AsyncClient) -> None:
    body = bytes(range(256))
    answer = await client.put("/predictions/mine/1.0", content=body, headers={"content-type": "image/x-own; a=b"})
    assert answer.content == b"mine 1 image/x-own; a=b " + body
    assert answer.headers["content-type"] == "image/x-own; a=b"
    assert (answer.headers["x-duet-variant"], answer.headers["x-duet-version"]) == ("pytorch", "1")
    untyped = await client.post("/predictions/mine", content=b"x")
    assert untyped.content == b"mine None None x"
    assert "content-type" not in untyped.headers


async def test_multipart_keeps_its_boundary(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predictions/mine@pytorch", files={"data": io.BytesIO(b"abc")})
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    assert answer.content.count(b"--" + boundary) == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("mine/x", b"", 404, "ModelVersionNotFoundException"),
        ("mine@tensorflow", b"", 404, "ModelNotFoundException"),
        ("mine", b"bad", 400, "BadRequestException"),
        ("mine", b" " * 1001, 413, "BadRequestException"),
    ],
)
async def test_errors_are_torchserves(
    client: httpx.AsyncClient, path: str, body: bytes, status: int, kind: str
) -> None:
    answer = await client.post(f"/predictions/{path}", content=body)
    assert (answer.status_code, answer.json()["type"]) == (status, kind)


async def test_options_says_that_anything_goes(client: httpx.AsyncClient) -> None:
    document = (await client.options("/predictions/mine")).json()
    assert list(document["paths"]["/predictions/mine"]["post"]["requestBody"]["content"]) == ["*/*"]
