"""One request at a time, for what is asked outside of the load: parity, readiness, first answers."""

from __future__ import annotations

import http.client
from collections.abc import Mapping

import grpc

from loadtest.failures import LoadFailed
from loadtest.fronts import LENGTH, Answer, Call
from loadtest.stack import Address

SECONDS = 30.0


class CallFailed(LoadFailed):
    """It was not answered; the text has the server's own words."""


def send(address: Address, call: Call, extra: Mapping[str, str] | None = None, seconds: float = SECONDS) -> Answer:
    """Raises CallFailed."""
    headers = {**call.headers, **(extra or {})}
    if call.transport == "grpc":
        return _send_grpc(address, call, headers, seconds)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=seconds)
    try:
        connection.request("POST", call.target, call.body, {**headers, "Accept-Encoding": "identity"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise CallFailed(f"{address} did not answer {call.target}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise CallFailed(f"{address}{call.target} answered {response.status}: {body[:300].decode(errors='replace')}")
    length = response.headers.get(LENGTH)
    return Answer(body, int(length) if length else None)


def _send_grpc(address: Address, call: Call, headers: Mapping[str, str], seconds: float) -> Answer:
    metadata = tuple((name.lower(), value) for name, value in headers.items())
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    with grpc.insecure_channel(str(address), options=options) as channel:
        try:
            body = channel.unary_unary(call.target)(call.body, metadata=metadata, timeout=seconds)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details()  # type: ignore[attr-defined]
            raise CallFailed(f"{address}{call.target} answered {code}: {details}") from error
    return Answer(bytes(body))
