"""What the failures of servers of the Open Inference Protocol mean, over REST and over gRPC.

The protocol has an ``error`` text and no codes, so what a failure is often shows in the text alone. Texts are those of
Triton 2.51, KServe 0.21 and MLServer 1.7.1, seen on the running servers or read in their sources: Triton's
core/src/model_repository_manager, core/src/dynamic_batch_scheduler and src/http_server.cc, kserve/errors.py and
kserve/protocol/grpc/interceptors.py, mlserver/errors.py.
"""

from __future__ import annotations

from grpc import StatusCode

from gateway import errors
from gateway.servers.faults import (
    AWAY,
    CRASH,
    DENIED,
    LARGE,
    LATE,
    LOST,
    MEMORY,
    MODEL,
    OF_GRPC,
    OVERLOAD,
    OWN,
    REFUSED,
    SWAP,
    TOO_LARGE,
    Faults,
    Row,
)
from gateway.servers.v2.kind import V2Kind

_QUEUED = "the v2 server's queue for this model is full"
_GAVE_UP = "the v2 server gave the request up"
_DIED = "the v2 server's process for this model died of this request or of another"
_DENIES = "{server} refuses the gateway"
#: Triton puts the request's id before a text; the gateway sends none.
_ID = r"^(\[request id: <id_unknown>\] )?"
_FULL = _ID + r"Exceeds maximum queue size$"
_EXPIRED = _ID + r"Request timeout expired$"
#: Triton's Python backend, whose process for a model is gone.
_STUB = (
    _ID + r"(Failed to process the request\(s\) for model '[^']*', message: )?Stub process '[^']*' is not healthy\.?$"
)
#: Triton: no such model or version, or one that is not ready. KServe, MLServer: no such model.
_NOT_SERVED = (
    r"^Request for unknown model: '[^']*' (version -?\d+ )?"
    r"(is not found|is not at ready state|has no available versions)"
    r"|^Model with name \S+ (does not exist|is not ready)\.|^Model \S+ (with version \S* )?(not found|is not ready yet)"
)
_Code = StatusCode

_OF_REST = (
    Row(404, errors.NotFound, OWN, MODEL, describing=True),
    Row(503, errors.NotFound, OWN, MODEL, text=_NOT_SERVED, describing=True),
    Row(404, errors.Unavailable, errors.SWAPPED, SWAP, text=_NOT_SERVED),
    Row(400, errors.Unavailable, errors.SWAPPED, SWAP, text=_NOT_SERVED),
    Row(503, errors.Unavailable, errors.SWAPPED, SWAP, text=_NOT_SERVED),
    Row(503, errors.ResourceExhausted, _QUEUED, OVERLOAD, text=_FULL),
    Row(503, errors.DeadlineExceeded, _GAVE_UP, LATE, text=_EXPIRED),
    Row(500, errors.Unavailable, _DIED, CRASH, text=_STUB),
    Row(400, errors.InvalidArgument, OWN, REFUSED),
    Row(422, errors.InvalidArgument, OWN, REFUSED),
    # Who may call the server is between it and the gateway, and no matter of the client's.
    Row(401, errors.Unavailable, _DENIES, DENIED),
    Row(403, errors.Unavailable, _DENIES, DENIED),
    Row(404, errors.NotFound, OWN, MODEL),
    Row(408, errors.DeadlineExceeded, _GAVE_UP, LATE),
    Row(413, errors.PayloadTooLarge, LARGE, TOO_LARGE),
    # A model's own, of a caller's quota, say; what limits all callers stands before the server, and says 503.
    Row(429, errors.ResourceExhausted, OWN, MODEL),
    Row(501, errors.Unimplemented, OWN, MODEL),
    # Of something that stands between, a proxy or a mesh, or of a server that is about to start or to stop.
    Row(502, errors.Unavailable, AWAY, LOST),
    Row(503, errors.Unavailable, AWAY, LOST),
    Row(504, errors.Unavailable, AWAY, LOST),
)

_OF_GRPC = (
    Row(_Code.NOT_FOUND, errors.NotFound, OWN, MODEL, describing=True),
    Row(_Code.UNAVAILABLE, errors.NotFound, OWN, MODEL, text=_NOT_SERVED, describing=True),
    Row(_Code.NOT_FOUND, errors.Unavailable, errors.SWAPPED, SWAP, text=_NOT_SERVED),
    Row(_Code.UNAVAILABLE, errors.Unavailable, errors.SWAPPED, SWAP, text=_NOT_SERVED),
    Row(_Code.UNAVAILABLE, errors.ResourceExhausted, _QUEUED, OVERLOAD, text=_FULL),
    Row(_Code.UNAVAILABLE, errors.DeadlineExceeded, _GAVE_UP, LATE, text=_EXPIRED),
    Row(_Code.INTERNAL, errors.Unavailable, _DIED, CRASH, text=_STUB),
    *OF_GRPC,
    Row(_Code.RESOURCE_EXHAUSTED, errors.ResourceExhausted, OWN, MEMORY),
    Row(_Code.NOT_FOUND, errors.NotFound, OWN, MODEL),
    Row(_Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded, OWN, LATE),
    Row(_Code.INVALID_ARGUMENT, errors.InvalidArgument, OWN, REFUSED),
    Row(_Code.OUT_OF_RANGE, errors.InvalidArgument, OWN, REFUSED),
    Row(_Code.FAILED_PRECONDITION, errors.FailedPrecondition, OWN, REFUSED),
    Row(_Code.UNIMPLEMENTED, errors.Unimplemented, OWN, MODEL),
    Row(_Code.DATA_LOSS, errors.DataLoss, OWN, MODEL),
    Row(_Code.UNAUTHENTICATED, errors.Unavailable, _DENIES, DENIED),
    Row(_Code.PERMISSION_DENIED, errors.Unavailable, _DENIES, DENIED),
)

V2 = Faults(V2Kind.title, (*_OF_REST, *_OF_GRPC, Row(None, errors.Internal, OWN, MODEL)))
