"""Inference passes FastAPI by, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Route

from gateway.rest.asgi import Receive, Scope, Send, respond
from gateway.rest.hot import Hot

pytestmark = pytest.mark.anyio


class Tells:
    """Answers with its name and what the path gave."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, [], [f"{self._name} {scope.get('path_params')}".encode()])


async def answer(method: str, path: str, kind: str = "http") -> str:
    app = Hot(
        Tells("whole"), [Route("/v2/models/{model}/infer", Tells("infer")), Route("/v1/{rest:path}", Tells("v1"))]
    )
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": kind, "method": method, "path": path}, None, send)  # type: ignore[arg-type]
    return sent[1]["body"].decode()


async def test_a_post_to_an_inference_path_goes_to_its_endpoint_with_the_path_s_parts() -> None:
    assert await answer("POST", "/v2/models/m@a/infer") == "infer {'model': 'm@a'}"
    assert await answer("POST", "/v1/models/m:predict") == "v1 {'rest': 'models/m:predict'}"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/models/m/infer"), ("POST", "/v2/models/m/n/infer"), ("POST", "/v2/models/m/infer/"), ("POST", "/v3")],
)
async def test_everything_else_goes_to_the_whole_application(method: str, path: str) -> None:
    assert await answer(method, path) == "whole None"


async def test_lifespan_events_go_to_the_whole_application() -> None:
    assert await answer("POST", "/v1/x", kind="lifespan") == "whole None"
