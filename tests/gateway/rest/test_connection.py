"""What a client may take of a connection: time, bytes, places. Raw sockets against the real process."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for

#: Long enough for a busy machine, and what is over must be over long before this.
SECONDS = 20
HASTY = {"headers_seconds": 1, "body_seconds": 1, "bytes_per_second": 10_000, "stall_seconds": 1, "idle_seconds": 3}
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


class World:
    def __init__(self, gateway: RunningGateway, server: FakeTorchServe) -> None:
        self.gateway = gateway
        self.server = server

    def connect(self, *, small: bool = False) -> socket.socket:
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(SECONDS)
        sock.connect(("127.0.0.1", int(self.gateway.client.base_url.port or 0)))
        return sock

    def cuts(self, reason: str) -> float:
        found = re.search(
            rf'duet_connections_cut_total{{reason="{reason}"}} (\S+)', self.gateway.admin.get("/metrics").text
        )
        return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened(tmp_path_factory, HASTY) as world:
        yield world


class opened(ExitStack):  # noqa: N801 - reads as a function
    def __init__(self, folders: pytest.TempPathFactory, http: dict[str, Any], **settings: Any) -> None:
        super().__init__()
        self._arguments = folders, http, settings

    def __enter__(self) -> World:  # type: ignore[override]
        folders, http, settings = self._arguments
        server = FakeTorchServe({"m": ["1"]})
        self.callback(server.close)
        of_server = {"kind": "torchserve", "endpoint": server.url, "management": server.url}
        gateway = start_gateway(
            {"servers": {"pytorch": of_server}, "models": {"m": {}}, "http": http, **settings},
            folders.mktemp("connection"),
        )
        self.callback(gateway.stop)
        gateway.wait_until("/v2/models/m/ready", 200)
        return World(gateway, server)


def answer(sock: socket.socket) -> bytes:
    """All that comes until the gateway closes."""
    data = b""
    while piece := sock.recv(65_536):
        data += piece
    return data


def trickle(sock: socket.socket, data: bytes, *, until_closed: bool = True) -> bytes:
    """Sends a byte every 50 ms until the gateway answers; gives the answer."""
    sock.settimeout(0.05)
    end = time.monotonic() + SECONDS
    for byte in data * 1000:
        try:
            sock.send(bytes([byte]))
            received = sock.recv(65_536)
            sock.settimeout(SECONDS)
            return received + answer(sock)
        except TimeoutError:
            assert time.monotonic() < end, "the gateway waits for ever"
    raise AssertionError("sent everything")


def test_a_head_that_does_not_end_is_408_and_the_end(world: World) -> None:
    with world.connect() as sock:
        sock.sendall(b"GET /v2 HTTP/1.1\r\nx: ")
        assert trickle(sock, b"a").startswith(b"HTTP/1.1 408 ")
    assert world.cuts("headers") >= 1


def test_a_body_that_trickles_is_408_and_reaches_no_server(world: World) -> None:
    before = len(world.server.predicted)
    with world.connect() as sock:
        sock.sendall(HEAD + b"content-length: 100000\r\n\r\n")
        assert trickle(sock, b"a").startswith(b"HTTP/1.1 408 ")
    assert len(world.server.predicted) == before
    assert world.cuts("body") >= 1


def test_a_body_that_keeps_coming_may_take_longer(world: World) -> None:
    """Twice the time allowed, at twice the rate asked for."""
    numbers = ",".join(["1"] * 20_000)
    body = f'{{"inputs": [{{"name": "x", "shape": [20000, 1], "datatype": "FP32", "data": [{numbers}]}}]}}'.encode()
    with world.connect() as sock:
        sock.sendall(HEAD + f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode())
        for start in range(0, len(body), 4000):
            sock.sendall(body[start : start + 4000])
            time.sleep(0.2)
        assert answer(sock).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_reads_ends_its_connection(world: World) -> None:
    size = 1_000_000
    blob = struct.pack("<f", 1) * size
    inputs = {"name": "x", "datatype": "FP32", "shape": [size, 1], "parameters": {"binary_data_size": len(blob)}}
    head = json.dumps({"inputs": [inputs], "parameters": {"binary_data_output": True}}).encode()
    lines = f"inference-header-content-length: {len(head)}\r\ncontent-length: {len(head) + len(blob)}\r\n\r\n"
    before = world.cuts("stalled")
    with world.connect(small=True) as sock:
        sock.sendall(HEAD.replace(b"application/json", b"application/octet-stream") + lines.encode() + head + blob)
        wait_for(lambda: world.cuts("stalled") > before, "the gateway to give up")


def test_a_connection_without_a_request_is_closed_after_a_while(world: World) -> None:
    """Neither silence nor empty lines between requests count as one."""
    with world.connect() as silent, world.connect() as lines:
        lines.settimeout(0.1)
        end = time.monotonic() + SECONDS
        with pytest.raises((ConnectionError, EOFError)):  # noqa: PT012 - until the gateway closes
            while time.monotonic() < end:
                lines.sendall(b"\r\n")
                try:
                    if not lines.recv(1):
                        raise EOFError
                except TimeoutError:
                    continue
        assert silent.recv(1) == b""


def test_who_hangs_up_is_worked_for_no_longer(world: World) -> None:
    world.server.delay_seconds = 2
    before = len(world.server.predicted)
    body = b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}'
    with world.connect() as sock:
        sock.sendall(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: len(world.server.predicted) > before, "the request to reach the server")
    wait_for(lambda: in_flight(world) == 0, "the gateway to let go", seconds=1.5)
    world.server.delay_seconds = 0
    assert b"Traceback" not in world.gateway.log.read_bytes()


def in_flight(world: World) -> float:
    found = re.search(r'duet_requests_in_flight{front="v2_rest"} (\S+)', world.gateway.admin.get("/metrics").text)
    assert found
    return float(found[1])


def test_where_all_places_are_taken_the_longest_idle_makes_way(tmp_path_factory: pytest.TempPathFactory) -> None:
    with opened(tmp_path_factory, {"max_connections": 3}) as world:
        world.gateway.client.close()
        first, second = world.connect(), world.connect()
        others = [world.connect() for _ in range(2)]
        assert first.recv(1) == b""
        for sock in (second, *others):
            sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n")
        wait_for(lambda: busy(world), "all to be at work")
        with world.connect() as refused:
            assert answer(refused).startswith(b"HTTP/1.1 503 ")
        for sock in (second, *others):
            sock.sendall(b"connection: close\r\n\r\n")
            assert answer(sock).startswith(b"HTTP/1.1 200 ")
            sock.close()
        first.close()


def busy(world: World) -> bool:
    """Whether a new connection finds no place."""
    with world.connect() as sock:
        sock.settimeout(0.2)
        try:
            return sock.recv(20).startswith(b"HTTP/1.1 503 ")
        except TimeoutError:
            return False


def test_bodies_are_held_to_their_budget(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One that is larger than the whole budget goes alone; who comes to it is told to come later.

    A small body finds the room that is kept for small ones.
    """
    opening = opened(tmp_path_factory, {"max_body_bytes": 1_000_000}, max_bytes_in_flight=300_000)
    with opening as world, world.connect() as large, world.connect() as late:
        large.sendall(HEAD + b"content-length: 400000\r\n\r\n" + b" " * 390_000)
        wait_for(lambda: "duet_body_bytes 390000.0" in world.gateway.admin.get("/metrics").text, "the body to be held")
        assert refused_for_now(world.gateway.infer("m", [1] * 40_000))
        assert world.gateway.infer("m", [1]).status_code == 200
        body = b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}'
        large.sendall(b" " * (10_000 - len(body)) + body)
        assert large.recv(20).startswith(b"HTTP/1.1 200 ")
        late.sendall(HEAD + f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        assert answer(late).startswith(b"HTTP/1.1 200 ")


def refused_for_now(response: httpx.Response) -> bool:
    return response.status_code == 503 and response.headers["retry-after"] == "1"


def test_while_draining_answers_send_their_clients_elsewhere(
    gateway_with: Callable[[dict[str, Any]], RunningGateway],
) -> None:
    server = FakeTorchServe({"m": ["1"]})
    of_server = {"kind": "torchserve", "endpoint": server.url, "management": server.url}
    gateway = gateway_with({"servers": {"pytorch": of_server}, "models": {"m": {}}, "linger_seconds": 3})
    gateway.wait_until("/v2/models/m/ready", 200)
    assert "connection" not in gateway.infer("m", [1]).headers
    gateway.process.terminate()
    wait_for(lambda: gateway.infer("m", [1]).headers.get("connection") == "close", "the drain to show", seconds=2.5)
    assert gateway.process.wait(SECONDS) == 0
    with pytest.raises(httpx.TransportError):
        gateway.client.get("/v2")
    server.close()
