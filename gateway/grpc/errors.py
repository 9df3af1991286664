"""Errors as gRPC shows them: the code, the text, and in the trailing metadata who would have served the request."""

from __future__ import annotations

from math import ceil

import grpc

from gateway import pins
from gateway.errors import Code, DuetError
from gateway.observation import Observation

STATUS: dict[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.name] for code in Code}

Metadata = tuple[tuple[str, str], ...]


def metadata(error: DuetError) -> Metadata:
    found: list[tuple[str, str]] = []
    if error.retry_after_seconds is not None:
        # gRPC's retry pushback (gRFC A6): milliseconds.
        found.append(("grpc-retry-pushback-ms", str(round(error.retry_after_seconds * 1e3))))
        found.append(("retry-after", str(ceil(error.retry_after_seconds))))
    if error.target is not None:
        found.append((pins.VARIANT, error.target.variant))
        if error.target.version is not None:
            found.append((pins.VERSION, str(error.target.version)))
    return tuple(found)


def observed(seen: Observation) -> Metadata:
    """What every answer bears, failed or not."""
    mine = (("x-request-id", seen.id), ("traceparent", seen.traceparent), ("server-timing", seen.server_timing()))
    return (*mine, *((name.decode(), value.decode()) for name, value in seen.notes))
