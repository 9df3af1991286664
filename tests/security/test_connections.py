"""Connections of one address: how many, what they hold before a request is whole, and what a request may bring along.

The kind: whatever a client can make the gateway hold before it has shown who it is. Bystanders call from another
address and keep their connections.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.gateway.conftest import start_gateway, wait_for
from tests.security.authority import Authority
from tests.security.door import BODY, MODEL, Door, open_door, read_answers, request, statuses

PLACES = 100
LIVE = request("/v2/health/live", b"", method="GET")
#: What an attacker says first on each connection.
SAYS = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: du",
    "a request": LIVE,
    "half a body": b"POST /v2/health/live HTTP/1.1\r\nHost: duet\r\nContent-Length: 9\r\n\r\n",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    http = {"max_connections": PLACES, "allowed_hosts": ["duet"], "headers_seconds": 30, "max_header_bytes": 1 << 20}
    with open_door(tmp_path_factory.mktemp("connections"), http=http) as opened:
        yield opened


def connect(stack: ExitStack, port: int, source: str, says: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10, (source, 0)))
    with contextlib.suppress(OSError):
        sock.sendall(says)
    return sock


@pytest.mark.parametrize(
    "says", ["half a body", *(pytest.param(key, marks=pytest.mark.full) for key in list(SAYS)[:-1])]
)
def test_one_address_cannot_take_every_place(world: Door, says: str) -> None:
    """Twice as many connections as there may be; a bystander's own stays, though it was idle all the time."""
    with ExitStack() as stack:
        kept = connect(stack, world.port, "127.0.0.3", LIVE)
        assert statuses(read_answers(kept, 10)) == [200]
        for _ in range(2 * PLACES):
            connect(stack, world.port, "127.0.0.2", SAYS[says])
        for sock in (kept, connect(stack, world.port, "127.0.0.3")):
            sock.sendall(request(f"/v2/models/{MODEL}/infer", BODY))
            assert statuses(read_answers(sock, 10)) == [200]


def test_large_heads_of_one_address_hold_16_mib(world: Door) -> None:
    """Of heads that are not whole, of 1 MiB each and on its own few connections; others' heads are taken meanwhile."""
    head = b"GET / HTTP/1.1\r\nHost: duet\r\nX-A: " + b"a" * 1_000_000
    with ExitStack() as stack:
        sent = [connect(stack, world.port, "127.0.0.2", head) for _ in range(17)]
        (refused,) = select.select(sent, [], [], 10)[0]
        assert statuses(read_answers(refused, 10)) == [503]
        other = connect(stack, world.port, "127.0.0.3", head + b"\r\n\r\n")
        assert statuses(read_answers(other, 10)) == [200]
    with ExitStack() as stack:  # all of it is free again
        wait_for(lambda: _is_taken(stack, world, head), "the first ones' room to be free")


def _is_taken(stack: ExitStack, world: Door, head: bytes) -> bool:
    return statuses(read_answers(connect(stack, world.port, "127.0.0.2", head + b"\r\n\r\n"), 10)) == [200]


def test_requests_that_are_sent_at_once_are_few(world: Door) -> None:
    """A thousand are answered. One read of a socket brings ten thousand, which are a second of the loop's time.

    While another address calls, they are taken in bites, and more get their answers: this waits until nobody else does.
    """

    def are_few() -> bool:
        answered = statuses(world.talk(LIVE * 3000, seconds=20))
        assert set(answered) == {200}
        return 1000 <= len(answered) <= 1030

    wait_for(are_few, "the rest to be refused")


@pytest.mark.full
@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\0\1\0\1"])
def test_half_of_a_handshake_has_a_place_and_a_time(tmp_path: Path, says: bytes) -> None:
    """TLS clients that say nothing, or next to nothing: no more of them than an address may have, and not for long."""
    authority = Authority(tmp_path)
    tls, trust = authority.issue("gateway").settings, ssl.create_default_context(cafile=authority.file)
    http = {"tls": tls, "max_connections": 80, "headers_seconds": 1}
    servers = {"tensorflow": {"kind": "tfserving", "endpoint": "127.0.0.1:9"}}
    running = start_gateway({"servers": servers, "http": http}, tmp_path, tls=trust)
    try:
        process = psutil.Process(running.process.pid)
        before, port = process.num_fds(), int(running.client.base_url.port or 0)
        with ExitStack() as stack:
            for _ in range(300):
                connect(stack, port, "127.0.0.2", says)
            assert running.client.get("/v2/health/live").status_code == 200
            wait_for(lambda: process.num_fds() - before <= 70, "those beyond the share to be closed", seconds=0.9)
            wait_for(lambda: process.num_fds() - before <= 2, "handshakes to be given up", seconds=10)
    finally:
        running.stop()
    assert "Traceback" not in running.log.read_text()
