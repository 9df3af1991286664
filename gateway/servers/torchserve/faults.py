"""What TorchServe's failures mean. Sources: what TorchServe 0.12 was seen to answer, and ``org/pytorch/serve/http``.

A row's ``kind`` is TorchServe's ``type``.
"""

from __future__ import annotations

from gateway import errors
from gateway.servers.faults import (
    AWAY,
    CRASH,
    LARGE,
    LATE,
    LOST,
    MODEL,
    OVERLOAD,
    REFUSED,
    SWAP,
    TOKEN,
    TOO_LARGE,
    Faults,
    Row,
)
from gateway.servers.torchserve.kind import TorchServeKind

_HANDLER = "InternalServerException"
_GONE = "ModelNotFoundException|ModelVersionNotFoundException"
_DIED = "TorchServe's worker died of this request or of another"
_BUSY = "TorchServe has no worker free for this model"
_REFUSES = "TorchServe refuses the gateway's token; check the key file"
_HANDLER_FAILED = "the model's handler in TorchServe failed: {text}"

_ROWS = (
    Row(404, errors.NotFound, "TorchServe: {text}", MODEL, kind=_GONE, describing=True),
    Row(404, errors.Unavailable, errors.SWAPPED, SWAP, kind=_GONE),
    Row(400, errors.Unavailable, _REFUSES, TOKEN, kind="InvalidKeyException"),
    # 503 alone is overload or a bug in the handler; the type settles it. Whether workers are busy or all dead it does
    # not say: the registry asks each second, and routes nothing to a model without a ready worker.
    Row(503, errors.ResourceExhausted, _BUSY, OVERLOAD, kind="ServiceUnavailableException"),
    # Also an answer that took too long or grew too large for TorchServe: it kills the worker.
    Row(500, errors.Unavailable, _DIED, CRASH, text=r"^Worker died\.?$"),
    Row(413, errors.PayloadTooLarge, LARGE, TOO_LARGE),
    Row(507, errors.PayloadTooLarge, LARGE, TOO_LARGE, text="too large"),
    Row(507, errors.Unavailable, _DIED, CRASH),
    Row(408, errors.DeadlineExceeded, "TorchServe gave the request up", LATE),
    # What a handler says itself: PredictionException(text, status).
    Row(400, errors.InvalidArgument, "{text}", REFUSED),
    Row(401, errors.Unauthenticated, "{text}", MODEL, kind=_HANDLER),
    Row(403, errors.PermissionDenied, "{text}", MODEL, kind=_HANDLER),
    Row(404, errors.NotFound, "{text}", MODEL, kind=_HANDLER),
    Row(409, errors.FailedPrecondition, "{text}", MODEL, kind=_HANDLER),
    Row(422, errors.InvalidArgument, "{text}", REFUSED, kind=_HANDLER),
    # Its own reason, of a caller's quota, say: TorchServe's full queue is 503.
    Row(429, errors.ResourceExhausted, "{text}", MODEL, kind=_HANDLER),
    Row(501, errors.Unimplemented, "{text}", MODEL, kind=_HANDLER),
    Row(504, errors.DeadlineExceeded, "{text}", MODEL, kind=_HANDLER),
    # Without TorchServe's type, these are of something that stands between: a proxy or a mesh.
    Row(502, errors.Unavailable, AWAY, LOST, kind=""),
    Row(503, errors.Unavailable, AWAY, LOST, kind=""),
    Row(504, errors.Unavailable, AWAY, LOST, kind=""),
    Row(None, errors.Internal, _HANDLER_FAILED, MODEL),
)

TORCHSERVE = Faults(TorchServeKind.title, _ROWS)
