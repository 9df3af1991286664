"""What browsers are told, and which websites' pages may call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.conftest import RunningGateway
from tests.security.door import BODY, Door, request

SAFE = (b"x-content-type-options: nosniff", b"cache-control: no-store")
SERVERS = {"t": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}


@pytest.mark.parametrize(
    "target", ["/v2", "/v2/models/double/infer", "/v2/models/none/infer", "/none", "/ping", "/v1/x"]
)
def test_every_answer_is_to_be_taken_as_it_is_and_not_kept(door: Door, target: str) -> None:
    answer = door.talk(request(target, BODY)).lower()
    assert all(line in answer for line in SAFE)
    assert b"\r\nserver:" not in answer
    assert b"access-control" not in answer


def test_so_are_the_answers_of_the_admin_port(door: Door) -> None:
    for path in ("/metrics", "/docs", "/healthz", "/none"):
        headers = door.gateway.admin.get(path).headers
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store"), path


def test_only_pages_of_listed_origins_may_call(gateway_with: Callable[[dict[str, Any]], RunningGateway]) -> None:
    origin = "https://app.example"
    gateway = gateway_with({"servers": SERVERS, "http": {"cors_origins": [origin]}})
    ask = {"access-control-request-method": "POST"}
    may = gateway.client.options("/v2/models/m/infer", headers={"origin": origin, **ask})
    assert may.status_code == 200
    assert may.headers["access-control-allow-origin"] == origin
    assert "x-api-key" in may.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in may.headers
    answer = gateway.client.get("/v2", headers={"origin": origin})
    assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == (origin, "origin")
    for other in ("https://evil.example", "https://app.example.evil.example", "http://app.example", "null"):
        for answer in (
            gateway.client.options("/v2/models/m/infer", headers={"origin": other, **ask}),
            gateway.client.get("/v2", headers={"origin": other}),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")], other
