"""Pages of other websites are kept out of every port: by the Host that they call, and by what their browser says.

The kind: whatever a browser can be made to send without asking first (a GET, a `text/plain` POST, a preflight), to
whichever port, path or spelling of a host, by a page that the gateway's owner has not listed.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, load
from gateway.rest.fence import Hosts
from tests.fakes import http2
from tests.gateway.conftest import RunningGateway
from tests.security.door import BODY, MODEL, Door, open_door
from tests.security.doors import KeyFolder
from tests.security.test_rapid_reset import message

EVIL = "https://evil.example"
LISTED = "https://app.example"
INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """As a developer starts it: on loopback, open, one website listed, no names of hosts."""
    with open_door(tmp_path_factory.mktemp("fence"), http={"cors_origins": [LISTED]}) as opened:
        yield opened


def ports(gateway: RunningGateway) -> dict[str, int]:
    return {"http": gateway.client.base_url.port or 0, "admin": gateway.admin.base_url.port or 0}


REBOUND = ["evil.example", "evil.example:8000", "EVIL.example.", "localhost.evil.example", "127.0.0.1.evil.example"]
ASKED = {
    "http": ["/v2", "/v2/health/live", "/ping", f"/v1/models/{MODEL}", "/nowhere"],
    "admin": ["/metrics", "/admin/backends", "/docs", "/openapi.json", "/healthz", "/v2", "/nowhere"],
}


@pytest.mark.parametrize("host", REBOUND)
@pytest.mark.parametrize("port", ["http", "admin"])
def test_a_name_that_was_bound_to_loopback_reaches_nothing(default: Door, port: str, host: str) -> None:
    """DNS rebinding: to the browser it is the page's own origin, so nothing but the Host gives it away."""
    client = getattr(default.gateway, {"http": "client", "admin": "admin"}[port])
    headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    for path in ASKED[port]:
        answer = client.get(path, headers=headers)
        assert answer.status_code == 403, path
        assert f"{'admin' if port == 'admin' else 'http'}.allowed_hosts" in answer.json()["error"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST", "localhost.", "duet.localhost", "127.0.0.1", "127.1", "[::1]"]
)
@pytest.mark.parametrize("port", ["http", "admin"])
def test_programs_call_loopback_by_every_name_that_it_has(default: Door, port: str, name: str) -> None:
    """With and without the port; a pod's address too, as in Kubernetes' probes and Prometheus' scrapes."""
    number = ports(default.gateway)[port]
    client = getattr(default.gateway, {"http": "client", "admin": "admin"}[port])
    for host in (name, f"{name}:{number}", f"10.0.0.7:{number}", "[fd00::7]"):
        assert client.get("/v2/health/ready", headers={"host": host}).status_code == 200, host


def test_a_request_of_before_hosts_passes(default: Door) -> None:
    assert default.talk(b"GET /v2/health/live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


FOREIGN = {
    "another website": {"origin": EVIL, "sec-fetch-site": "cross-site"},
    "an old browser": {"origin": EVIL},
    "a page without an origin": {"origin": "null"},
    "a listed origin over another scheme": {"origin": LISTED.replace("https", "http")},
    "a name that begins like a listed one": {"origin": f"{LISTED}.evil.example"},
    "another port of this machine": {"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"},
    "a picture": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    "a picture of a neighbour": {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    "a link": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    "a website that claims to be none": {"origin": EVIL, "sec-fetch-site": "none"},
}
RUNS = {
    INFER: BODY,
    f"/predictions/{MODEL}": b"[[1]]",
    f"/v1/models/{MODEL}:predict": b'{"instances": [[1]]}',
    f"/v2/models/{MODEL}/versions/1/infer": BODY,
}


@pytest.mark.parametrize("page", FOREIGN)
@pytest.mark.parametrize("port", ["http", "admin"])
def test_a_page_of_another_website_runs_no_model(default: Door, port: str, page: str) -> None:
    """`text/plain` needs no preflight. The refusal has the dialect's own shape, and comes before the body is read."""
    client = getattr(default.gateway, {"http": "client", "admin": "admin"}[port])
    before = default.predictions
    for path, body in RUNS.items():
        answer = client.post(path, content=body, headers={"content-type": "text/plain", **FOREIGN[page]})
        assert answer.status_code == 403, path
        told = answer.json()
        text = told["message"] if path.startswith("/predictions") else told["error"]
        assert ("http.cors_origins" if port == "http" else "may not call this port") in text
        assert (told.get("code"), told.get("type")) in ((None, None), (403, "InvalidKeyException"))
        assert "access-control-allow-origin" not in answer.headers
    for method in ("GET", "PUT", "OPTIONS", "DELETE"):  # of TorchServe's calls, every verb predicts
        assert client.request(method, f"/predictions/{MODEL}", headers=FOREIGN[page]).status_code == 403
    assert default.predictions == before


@pytest.mark.parametrize("page", FOREIGN)
def test_a_page_of_another_website_reads_nothing_of_the_admin_port(default: Door, page: str) -> None:
    for path in ASKED["admin"]:
        assert default.gateway.admin.get(path, headers=FOREIGN[page]).status_code == 403, path


def test_a_listed_website_calls_the_http_port_alone(default: Door) -> None:
    headers = {"content-type": "text/plain", "origin": LISTED, "sec-fetch-site": "cross-site"}
    assert default.gateway.client.post(INFER, content=BODY, headers=headers).status_code == 200
    assert default.gateway.admin.post(INFER, content=BODY, headers=headers).status_code == 403
    assert default.gateway.admin.get("/metrics", headers=headers).status_code == 403


def test_the_documentations_page_calls_the_port_that_it_came_from(default: Door) -> None:
    """All that it says is there is there, with the page's own Origin, without anything being listed."""
    admin = default.gateway.admin
    own = f"http://localhost:{ports(default.gateway)['admin']}"
    headers = {"host": own.removeprefix("http://"), "origin": own, "sec-fetch-site": "same-origin"}
    document = admin.get("/openapi.json", headers=headers).json()
    assert [server["url"] for server in document["servers"]] == ["/"]
    for path, operations in document["paths"].items():
        named = path.replace("{model}", MODEL).replace("{version}", "1")
        answer = admin.request(
            next(iter(operations)), named, headers=headers, content=BODY if "infer" in path else None
        )
        assert answer.status_code == 200, path
    outputs = [client.post(INFER, content=BODY).json() for client in (admin, default.gateway.client)]
    assert outputs[0]["outputs"] == outputs[1]["outputs"]


def test_on_the_admin_port_the_dialects_need_their_keys(
    gateway_with: Callable[[dict[str, Any]], RunningGateway], tmp_path: Path
) -> None:
    """Nothing of a model is told without one, by whichever dialect; probes and metrics go on without."""
    keys = KeyFolder(tmp_path)
    shown = {"x-api-key": keys.make("a", "predict,metadata:*")}
    servers = {"t": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}
    admin = gateway_with({"servers": servers, "auth": keys.settings}).admin
    assert admin.get("/v2/models", headers=shown).json() == {"models": []}
    for path in ("/v2/models", "/v1/models", "/v2/models/m", "/predictions/m", "/nowhere", "/administrator"):
        assert admin.get(path).status_code == 401, path
    assert admin.post("/v2/models/m/infer", content=BODY).status_code == 401
    assert [admin.get(path).status_code for path in ("/metrics", "/healthz", "/admin/backends")] == [200, 200, 401]


def test_names_are_allowed_that_the_settings_list(door: Door) -> None:
    """The session's door is called ``duet`` and ``*.example``; `*` in the middle of a name is none."""
    for host, status in {"duet": 200, "Duet.:80": 200, "a.b.example": 200, "example": 403, "aduet": 403}.items():
        assert door.gateway.client.get("/v2", headers={"host": host}).status_code == status, host


@pytest.mark.parametrize(
    ("listens_on", "names", "allowed"),
    [
        ("127.0.0.1", None, False),
        ("127.9.9.9", None, False),
        ("::1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("192.0.2.1", None, True),
        ("0.0.0.0", (), False),
        ("0.0.0.0", ("duet", "duet.ns.svc.cluster.local"), False),
        ("127.0.0.1", ("*",), True),
    ],
)
def test_by_default_only_loopback_asks_for_a_name(
    listens_on: str, names: tuple[str, ...] | None, allowed: bool
) -> None:
    """On an address for others, clients call by names that we cannot know."""
    hosts = Hosts(names, listens_on=listens_on)
    assert hosts.allow(b"evil.example:8000") is allowed
    assert all(
        hosts.allow(host) for host in (b"localhost", b"10.0.0.1:8002", b"[::1]", None, *map(str.encode, names or ()))
    )


def test_what_clients_make_up_is_not_remembered_without_end() -> None:
    hosts = Hosts(None, listens_on="127.0.0.1")
    for port in range(10_000):
        assert hosts.allow(b"localhost:%d" % port)
        assert not hosts.allow(b"evil%d.example" % port)
    assert len(hosts._right) <= 256


@pytest.mark.parametrize("port", ["http", "admin"])
@pytest.mark.parametrize("name", ["https://duet.example", "duet:8000", "du*t", "", "a b", "*."])
def test_a_name_that_is_none_is_told(tmp_path: Path, name: str, port: str) -> None:
    path = tmp_path / "duet.yaml"
    number = {"port": 8002} if port == "admin" else {}
    servers = {"t": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}
    path.write_text(json.dumps({"servers": servers, port: {"allowed_hosts": [name], **number}}))
    with pytest.raises(ConfigError, match=re.escape(f"{port}.allowed_hosts: {name!r} is no name of a host")):
        load(path, {})


PAGES = {
    "a form of Firefox's": {"content-type": "text/plain", "origin": EVIL, "sec-fetch-site": "cross-site"},
    "an old browser": {"content-type": "text/plain", "origin": EVIL},
    "without an origin": {"sec-fetch-site": "cross-site"},
    "a neighbour": {"content-type": "application/grpc", "sec-fetch-site": "same-site"},
}


@pytest.mark.parametrize("page", PAGES)
def test_no_page_runs_a_model_over_grpc(default: Door, page: str) -> None:
    """gRPC's core takes any content type, and Firefox sends ``te: trailers`` by itself on HTTP/2.

    Browsers speak HTTP/2 over TLS alone, but what ends TLS before the gateway passes all of this on.
    """
    before = default.predictions
    answer = _grpc(default, PAGES[page])
    assert b"may not call" in answer
    assert default.predictions == before


def test_a_listed_website_may_come_over_grpc_by_a_proxy(default: Door) -> None:
    """gRPC-Web's proxies pass the page's Origin on."""
    before = default.predictions
    _grpc(default, {"content-type": "application/grpc", "origin": LISTED, "sec-fetch-site": "cross-site"})
    assert default.predictions == before + 1


def _grpc(door: Door, headers: dict[str, str]) -> bytes:
    with socket.create_connection(("127.0.0.1", door.gateway.grpc_port), 10) as sock:
        sock.sendall(http2.PREFACE + http2.call(1, "/inference.GRPCInferenceService/ModelInfer", message(), **headers))
        data = b""
        while b"grpc-status" not in data:
            piece = sock.recv(65_536)
            assert piece, "the gateway has closed the connection"
            data += piece
    return data
