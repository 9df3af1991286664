"""Bodies that hold room and say nothing more: bystanders from the same and from other addresses go on.

The kind: bytes that a client has sent buy it neither everybody's room nor time. Silent, dripping, or many and small.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.gateway.conftest import wait_for
from tests.security.door import BODY, MODEL, Door, open_door, request, statuses

BUDGET, BODIES, LEFT = 4 << 20, 16, 40
PATIENCE = {"body_seconds": 4, "rate_seconds": 1, "max_body_bytes": 1 << 20}
LARGE = json.dumps({"inputs": [{"name": "x", "shape": [60_000, 1], "datatype": "FP32", "data": [1] * 60_000}]}).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(
        tmp_path_factory.mktemp("silent"),
        http={**PATIENCE, "allowed_hosts": ["duet"], "shares": {"caller": 0.5}},
        max_bytes_in_flight=BUDGET,
    ) as opened:
        yield opened


def ask(door: Door, source: str, body: bytes = BODY) -> int:
    with socket.create_connection(("127.0.0.1", door.port), 10, (source, 0)) as sock:
        sock.sendall(request(f"/v2/models/{MODEL}/infer", body))
        return statuses(sock.recv(20) + b" ")[0]


def hold(door: Door, holders: ExitStack, *, bodies: int, size: int) -> list[socket.socket]:
    """Announces bodies of ``size`` and sends all but `LEFT` bytes of them, in turns and so far as the gateway lets."""
    found = []
    for _ in range(bodies):
        sock = holders.enter_context(socket.create_connection(("127.0.0.1", door.port), 10, ("127.0.0.2", 0)))
        sock.sendall(f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: duet\r\nContent-Length: {size}\r\n\r\n".encode())
        found.append(sock)
    for _ in range(4):
        for sock in found:
            try:
                sock.sendall(b" " * ((size - LEFT) // 4))
            except OSError:
                continue  # refused
    return found


@pytest.mark.parametrize(
    ("bodies", "size"),
    [(BODIES, BUDGET // BODIES), (4, 1 << 20), (60, 64 << 10)],
    ids=["as told", "few and large", "many and small"],
)
def test_silent_bodies_refuse_no_bystander(world: Door, bodies: int, size: int) -> None:
    """Small requests go on at once, whoever's they are; large ones of others find the room that is left."""
    with ExitStack() as holders:
        hold(world, holders, bodies=bodies, size=size)
        assert [ask(world, "127.0.0.3") for _ in range(20)] == [200] * 20
        assert ask(world, "127.0.0.3", LARGE) == 200
        if size > 64 << 10:
            assert [ask(world, "127.0.0.2") for _ in range(20)] == [200] * 20
    wait_for(lambda: "duet_body_bytes 0.0" in world.gateway.admin.get("/metrics").text, "the room to be free")


def test_bytes_of_long_ago_buy_no_time_even_with_a_drip(world: Door) -> None:
    """900,000 bytes at once are a minute and a half at the rate asked for; a byte a second more earns nothing."""
    with ExitStack() as holders:
        (sock,) = hold(world, holders, bodies=1, size=900_000)
        sock.settimeout(1)
        begun, answer = time.monotonic(), b""
        while not answer and time.monotonic() - begun < 30:
            try:
                sock.send(b" ")
                answer = sock.recv(4096)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_makes_way_when_its_caller_needs_the_room(world: Door) -> None:
    """Long before its time is over: the new body is answered, and the silent ones are told."""
    with ExitStack() as holders:
        silent = hold(world, holders, bodies=2, size=900_000)
        time.sleep(2.5)
        assert ask(world, "127.0.0.2", b" " * 900_000 + BODY) == 200
        for sock in silent:
            sock.settimeout(10)
        assert any(b"others needed its room" in sock.recv(4096) for sock in silent)
