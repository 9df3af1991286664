"""Bodies to a model, and what a refusal says."""

from __future__ import annotations

import json
from typing import Any

import httpx


def post(client: httpx.Client, model: str, body: Any, verb: str = "predict") -> httpx.Response:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(f"/v1/models/{model}:{verb}", content=content)


def error(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()["error"]
