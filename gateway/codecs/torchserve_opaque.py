"""Bodies of models whose handler is the user's own: they are passed on as they are, and so are the answers."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from gateway import errors
from gateway.codecs import limits, multipart
from gateway.types import Payload

#: What a handler's own status means in gRPC's terms (serve ``grpcimpl/GRPCJob.java``, which maps the same ones).
_ERRORS: dict[int, type[errors.DuetError]] = {
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    409: errors.FailedPrecondition,
    413: errors.ResourceExhausted,
    429: errors.ResourceExhausted,
    501: errors.Unimplemented,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
_MAX_TEXT = 1024


def of_parts(parts: Mapping[str, bytes]) -> Payload:
    """The inputs of a gRPC call. A handler finds them in its data by name, as bytes, as from TorchServe's own gRPC.

    Raises InvalidArgument for a name that a multipart body cannot carry.
    """
    limits.check_count("inputs", len(parts), multipart.MAX_PARTS)
    body, content_type = multipart.encode(parts)
    return Payload(body, content_type)


def check_no_signature(model: str, named: str | None) -> None:
    """Raises InvalidArgument where a request names a signature: the model's handler knows of none."""
    if named:
        raise errors.InvalidArgument(f"model {model!r} has no signatures, and {named!r} is named; name none")


def error_of(payload: Payload) -> errors.DuetError:
    """The error that an answer with a status of 400 and above is where there are codes in place of statuses."""
    wrong = errors.InvalidArgument if payload.status < 500 else errors.Internal
    later = 1.0 if payload.status in (429, 503) else None
    return _ERRORS.get(payload.status, wrong)(_text(payload), retry_after_seconds=later)


def _text(payload: Payload) -> str:
    try:
        return str(orjson.loads(payload.body)["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = payload.body[:_MAX_TEXT].decode("utf-8", "replace")
        return text or f"the model's handler answered with status {payload.status}"
