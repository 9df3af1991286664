"""Clients may ping a connection without a call, at the rate of the settings; who pings more often is sent away.

The kind: a connection that stays quiet for long between its calls, with a client that pings it to keep it open. gRPC's
own default sends such a client away after two pings. Times are scaled down: gRPC's clients ping every 10 s at most, so
the pings are written by hand here.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import grpc
import pytest

from gateway.config import Settings
from gateway.grpc.server import Keepalive, build
from gateway.protos import v2_pb2
from tests.fakes import http2
from tests.gateway.conftest import RunningGateway
from tests.gateway.grpc.v2_messages import SERVICE
from tests.gateway.transports import over

ENHANCE_YOUR_CALM = 11
_INTERVAL_SECONDS = 0.1


async def pinged(times: int, interval_seconds: float, **keepalive: Any) -> list[tuple[int, bytes]]:
    """The GOAWAYs that a client without a call gets for its pings."""
    server = build({}, max_message_bytes=1 << 20, ending=asyncio.Event(), keepalive=Keepalive(**keepalive))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    loop = asyncio.get_running_loop()
    try:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, http2.PREFACE + http2.settled())
            answer = b""
            try:
                for _ in range(times):
                    await loop.sock_sendall(sock, http2.ping())
                    if interval_seconds:  # from its answer on, so that the server cannot read two at once
                        answer += await loop.sock_recv(sock, 65_536)
                        await asyncio.sleep(interval_seconds)
            except ConnectionError:  # it was sent away, and what was said is still there to be read
                pass
            try:
                async with asyncio.timeout(_INTERVAL_SECONDS):
                    while data := await loop.sock_recv(sock, 65_536):
                        answer += data
            except (TimeoutError, ConnectionError):
                pass
            return http2.goaways(answer)
    finally:
        await server.stop(None)


def test_a_client_that_pings_at_the_rate_allowed_stays() -> None:
    """Ten pings on a connection that never had a call."""
    found = asyncio.run(pinged(10, _INTERVAL_SECONDS, min_ping_seconds=_INTERVAL_SECONDS / 2))
    assert found == []


def test_without_the_permission_the_same_client_is_sent_away() -> None:
    """As gRPC's own default has it: the test before would show nothing otherwise."""
    asked = pinged(5, _INTERVAL_SECONDS, min_ping_seconds=_INTERVAL_SECONDS / 2, permit_without_calls=False)
    assert asyncio.run(asked) == [(ENHANCE_YOUR_CALM, b"too_many_pings")]


@pytest.mark.parametrize("times", [4, 500])
def test_a_client_that_pings_more_often_is_sent_away(times: int) -> None:
    assert asyncio.run(pinged(times, 0, min_ping_seconds=5)) == [(ENHANCE_YOUR_CALM, b"too_many_pings")]


def test_a_client_may_be_allowed_to_be_hasty_more_often() -> None:
    assert asyncio.run(pinged(6, 0, min_ping_seconds=5, max_ping_strikes=10)) == []


def test_the_settings_are_the_documented_ones() -> None:
    """A client that pings every 10 s is half as fast as the default allows."""
    settings = {"servers": {"tensorflow": {"kind": "tfserving", "endpoint": "localhost:1"}}}
    keepalive = Settings.model_validate(settings).grpc.keepalive
    assert Keepalive(**keepalive.model_dump()) == Keepalive()
    assert keepalive.min_ping_seconds == 5
    assert keepalive.permit_without_calls


@over("grpcio")
def test_the_gateway_itself_sends_hasty_clients_away(gateway: RunningGateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.grpc_port), 20) as sock:
        sock.sendall(http2.PREFACE + http2.settled() + 10 * http2.ping())
        answer = b""
        while data := sock.recv(65_536):
            answer += data
    assert http2.goaways(answer) == [(ENHANCE_YOUR_CALM, b"too_many_pings")]


@pytest.mark.full
def test_a_client_that_pings_each_ten_seconds_keeps_its_connection(gateway: RunningGateway) -> None:
    """gRPC's own, at the highest rate that it has, over a minute without a call."""
    options = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),
    ]
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}", options) as channel:
        channel.subscribe(states.append)
        live = channel.unary_unary(SERVICE + "ServerLive", response_deserializer=v2_pb2.ServerLiveResponse.FromString)
        assert live(b"", timeout=10).live
        seen = len(states)
        time.sleep(65)
        assert live(b"", timeout=10).live
        assert states[seen:] in ([], [grpc.ChannelConnectivity.READY])
