"""Callers behind a trusted proxy are told apart, and nobody else's word about who calls counts.

The kind: an address that somebody writes. It counts where the connection comes from a configured network alone, and
then only up to the first address that no trusted proxy has. 127.0.0.2 is the proxy here.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network

import grpc
import pytest
from pydantic import ValidationError

from gateway.config import TrustedProxies
from gateway.security.proxies import Proxies
from tests.security.door import BODY, MODEL, Door, open_door, request, statuses
from tests.security.test_calls import WATCH, elsewhere, watch_or_refusal

PROXY, OTHER = "127.0.0.2", "127.0.0.3"
SILENT, NEXT, LEFT = 850_000, 600_000, 40
NETWORKS = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        ("192.0.2.1", "peer:192.0.2.1"),
        ("192.0.2.9, 192.0.2.1", "peer:192.0.2.1"),
        ("192.0.2.1, 10.0.0.2", "peer:192.0.2.1"),
        ("192.0.2.9, 192.0.2.1 ,10.0.0.2,\tfd00::7", "peer:192.0.2.1"),
        ("192.0.2.1:4711", "peer:192.0.2.1"),
        ("2001:db8:1:2:3::4", "peer:2001:db8:1:2::/64"),
        ("[2001:db8:1:2:3::4]:443", "peer:2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "peer:192.0.2.1"),
        ("10.0.0.3, 10.0.0.2", "peer:10.0.0.3"),
        ("what a client made up, 192.0.2.1", "peer:192.0.2.1"),
        ("", "peer:10.0.0.1"),
        ("unknown", "peer:10.0.0.1"),
        ("192.0.2.1,", "peer:10.0.0.1"),
        ("192.0.2.1, 10.0.0.2:x", "peer:10.0.0.1"),
        ("192.0.2.256", "peer:10.0.0.1"),
        ("192.0.2.1/24", "peer:10.0.0.1"),
        ("fe80::1%eth0", "peer:10.0.0.1"),
        ("192.0.2.1" + ", 10.0.0.2" * 40, "peer:10.0.0.1"),
    ],
)
def test_whom_a_proxy_calls_for(header: str, caller: str) -> None:
    """The right-most address that is no trusted proxy; the proxy itself where one up to there is no address."""
    assert Proxies(NETWORKS, "x-forwarded-for").caller("10.0.0.1", [header]) == caller


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        ("for=192.0.2.1", "peer:192.0.2.1"),
        ('For="[2001:db8:1:2::4]:4711";proto=https;by=10.0.0.2', "peer:2001:db8:1:2::/64"),
        ('for=192.0.2.9, proto=http ; for="192.0.2.1:80" , for=10.0.0.2', "peer:192.0.2.1"),
        ('for="192.0.2.9, for=192.0.2.8", for=192.0.2.1', "peer:192.0.2.1"),
        ("for=192.0.2.1, for=_hidden", "peer:10.0.0.1"),
        ("for=192.0.2.1;for=192.0.2.2", "peer:10.0.0.1"),
        ("for=192.0.2.1, by=10.0.0.2", "peer:10.0.0.1"),
        ('for="192.0.2.9, for=192.0.2.1', "peer:10.0.0.1"),
        ("192.0.2.1", "peer:10.0.0.1"),
    ],
)
def test_whom_a_proxy_calls_for_by_rfc_7239(header: str, caller: str) -> None:
    assert Proxies(NETWORKS, "forwarded").caller("10.0.0.1", [header]) == caller


def test_only_a_trusted_proxy_is_believed() -> None:
    proxies = Proxies(NETWORKS, "x-forwarded-for")
    assert proxies.caller("192.0.2.7", ["192.0.2.1"]) == "peer:192.0.2.7"
    assert proxies.caller("", ["192.0.2.1"]) == "peer:local"
    assert proxies.caller("::ffff:10.0.0.1", ["192.0.2.9", "192.0.2.1, 10.0.0.2"]) == "peer:192.0.2.1"


@pytest.mark.parametrize("networks", [["0.0.0.0/0"], ["::/0"], [], ["10.0.0.1/8"], ["proxy.example"]])
def test_networks_that_trust_everybody_or_nobody_are_refused(networks: list[str]) -> None:
    with pytest.raises(ValidationError):
        TrustedProxies(networks=networks)  # type: ignore[arg-type]  # as YAML gives them


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(
        tmp_path_factory.mktemp("proxies"),
        http={"allowed_hosts": ["duet"], "max_body_bytes": 1 << 20, "shares": {"caller": 0.5}},
        grpc={"max_watches": 8},
        max_bytes_in_flight=4 << 20,
        trusted_proxies={"networks": [f"{PROXY}/32", "127.0.0.16/28"]},
    ) as opened:
        yield opened


def ask(door: Door, source: str, line: str) -> int:
    """A body that has room unless its caller is the one that holds silent ones."""
    with socket.create_connection(("127.0.0.1", door.port), 10, (source, 0)) as sock:
        sock.sendall(request(f"/v2/models/{MODEL}/infer", b" " * NEXT + BODY, line))
        return statuses(sock.recv(20) + b" ")[0]


@pytest.mark.parametrize(
    ("source", "held_for", "asked_for", "status"),
    [
        pytest.param(PROXY, "192.0.2.1", "192.0.2.2", 200, id="two callers behind the proxy"),
        pytest.param(PROXY, "192.0.2.1", "192.0.2.9, 192.0.2.1, 127.0.0.17", 503, id="one caller, who makes one up"),
        pytest.param(PROXY, "2001:db8::1", "2001:db8::2", 503, id="one subnet"),
        pytest.param(OTHER, "192.0.2.1", "192.0.2.2", 503, id="no trusted proxy"),
    ],
)
def test_bodies_are_held_for_whom_the_proxy_calls(
    door: Door, source: str, held_for: str, asked_for: str, status: int
) -> None:
    with ExitStack() as holders:
        for _ in range(2):
            sock = holders.enter_context(socket.create_connection(("127.0.0.1", door.port), 10, (source, 0)))
            body = request(f"/v2/models/{MODEL}/infer", bytes(SILENT), f"X-Forwarded-For: {held_for}")
            sock.sendall(body[:-LEFT])
        door.gateway.admin.get("/healthz")
        assert ask(door, source, f"X-Forwarded-For: {asked_for}") == status
        assert ask(door, "127.0.0.4", "X-Forwarded-For: 192.0.2.1") == 200


def watches(port: int, addresses: list[str]) -> int:
    """How many of as many calls of Watch get an answer."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        calls = [channel.unary_stream(WATCH)(b"", timeout=20, metadata=(("x-forwarded-for", a),)) for a in addresses]
        answers = [next(watch_or_refusal(call)) for call in calls]
        for call in calls:
            call.cancel()
    return len(answers) - answers.count(None)


def test_watches_are_counted_for_whom_the_proxy_calls(door: Door) -> None:
    """Over one connection, as proxies do it. A caller may hold two; what it writes itself changes nothing."""
    different = [f"192.0.2.{number}" for number in range(4)]
    with elsewhere(door.gateway.grpc_port) as port:
        assert watches(port, different) == 4
        assert watches(port, [f"{one}, 198.51.100.7" for one in different]) == 2
        assert watches(port, [f"2001:db8::{number}" for number in range(4)]) == 2
    assert watches(door.gateway.grpc_port, different) == 2
