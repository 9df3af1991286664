"""Errors as the Open Inference Protocol's REST shows them: a status and ``{"error": "..."}``."""

from __future__ import annotations

from math import ceil

import orjson

from gateway import pins
from gateway.errors import Code, DuetError, PayloadTooLarge

STATUS: dict[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 502,
    Code.UNAUTHENTICATED: 401,
}

Headers = list[tuple[bytes, bytes]]


def status(error: DuetError) -> int:
    return 413 if isinstance(error, PayloadTooLarge) else STATUS[error.code]


def headers(error: DuetError) -> Headers:
    """Retry-After in whole seconds, and who would have served the request where that was settled."""
    found: Headers = []
    if error.retry_after_seconds is not None:
        found.append((b"retry-after", str(ceil(error.retry_after_seconds)).encode()))
    if error.code is Code.UNAUTHENTICATED:
        found.append((b"www-authenticate", b"Bearer"))
    if error.target is not None:
        found.append((pins.VARIANT.encode(), error.target.variant.encode()))
        if error.target.version is not None:
            found.append((pins.VERSION.encode(), str(error.target.version).encode()))
    return found


def body(message: str) -> bytes:
    return orjson.dumps({"error": message})
