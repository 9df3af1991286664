"""One prediction per model and framework, through the gateway, as a client would make it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from serving.failures import Failure

CALL_SECONDS = 30.0


class Tensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...


class CallFailed(Failure):
    """A prediction was not answered; the text has the gateway's own words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`output` is the first output's values, `latency_ms` from sending to the last byte of the answer."""

    model: str
    variant: str
    version: str
    output: list[Any]
    latency_ms: float


def request_body(inputs: Sequence[Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """The Open Inference Protocol's JSON request; `values` are nested lists by the inputs' names."""
    return {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": shape_of(values[tensor.name]),
                "data": values[tensor.name],
            }
            for tensor in inputs
        ]
    }


def shape_of(values: Any) -> list[int]:
    """
    >>> shape_of([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    [2, 3]
    """
    shape = []
    while isinstance(values, list):
        shape.append(len(values))
        values = values[0] if values else None
    return shape


def call(
    host: str,
    port: int,
    model: str,
    variant: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    """Ask one variant. Raises CallFailed."""
    path = f"/v2/models/{model}@{variant}/infer"
    connection = http.client.HTTPConnection(host, port, timeout=CALL_SECONDS)
    begun = time.perf_counter()
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise CallFailed(f"POST {path}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    latency_ms = (time.perf_counter() - begun) * 1e3
    if response.status != http.client.OK:
        raise CallFailed(f"POST {path}: {response.status} {content[:500].decode(errors='replace')}")
    output = json.loads(content)["outputs"][0]["data"]
    return Answer(model, variant, response.headers.get("x-duet-version", "?"), output, latency_ms)
