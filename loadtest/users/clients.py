"""Clients on gevent that send bytes which are written already. One client is for all requests of one user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from geventhttpclient import HTTPClient

from loadtest.fronts import Answer, Call
from loadtest.generator.job import MOST_IN_FLIGHT
from loadtest.wire import CallFailed


class Client(Protocol):
    def send(self, call: Call) -> Answer: ...

    def close(self) -> None: ...


class RestClient:
    """As many connections as requests may be in flight: ten, the package's default, would close the loop unseen."""

    def __init__(self, host: str, port: int, *, timeout_seconds: float) -> None:
        self._client = HTTPClient(
            host,
            port,
            concurrency=MOST_IN_FLIGHT,
            connection_timeout=timeout_seconds,
            network_timeout=timeout_seconds,
            headers={"Accept-Encoding": "identity"},
        )

    def send(self, call: Call) -> Answer:
        """Raises CallFailed, OSError."""
        response = self._client.request("POST", call.target, body=call.body, headers=dict(call.headers))
        body = bytes(response.read())
        if response.status_code != 200:
            raise CallFailed(f"{response.status_code} {body[:200].decode(errors='replace')}")
        return Answer(body)

    def close(self) -> None:
        self._client.close()


_initialised = False


class GrpcClient:
    """Bytes in, bytes out, over a channel with a connection of its own."""

    def __init__(self, host: str, port: int, *, timeout_seconds: float) -> None:
        grpc = grpc_on_gevent()
        self._timeout_seconds = timeout_seconds
        self._channel = grpc.insecure_channel(
            f"{host}:{port}",
            options=(
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ),
        )
        self._methods: dict[str, Any] = {}
        self._error = grpc.RpcError

    def send(self, call: Call) -> Answer:
        """Raises CallFailed."""
        method = self._methods.get(call.target)
        if method is None:
            method = self._methods[call.target] = self._channel.unary_unary(call.target)
        try:
            body = method(call.body, metadata=metadata(call.headers), timeout=self._timeout_seconds)
        except self._error as error:
            raise CallFailed(f"{error.code().name} {error.details()}") from error
        return Answer(bytes(body))

    def close(self) -> None:
        self._channel.close()


def grpc_on_gevent() -> Any:
    """grpc, told once a process to wait as gevent does: otherwise every call holds up all the others.

    Called by the first user and not on import: Locust forks its processes after it has imported the file, and gRPC
    that was begun before a fork hangs after it.
    """
    global _initialised
    import grpc
    from grpc.experimental.gevent import init_gevent  # type: ignore[import-untyped]

    if not _initialised:
        init_gevent()
        _initialised = True
    return grpc


def metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers.items())


def connect(transport: str, host_url: str, grpc_address: str, timeout_seconds: float) -> Client:
    """``grpc_address`` empty means: the port after that of HTTP, as the gateway has it."""
    at = urlsplit(host_url if "//" in host_url else f"//{host_url}")
    host, port = at.hostname or "127.0.0.1", at.port or 80
    if transport == "http":
        return RestClient(host, port, timeout_seconds=timeout_seconds)
    own, _, grpc_port = (grpc_address or f"{host}:{port + 1}").rpartition(":")
    return GrpcClient(own, int(grpc_port), timeout_seconds=timeout_seconds)
