"""What TensorFlow Serving's failures mean.

Sources: its texts in core/platform/errors.h, kernels/batching_util/shared_batch_scheduler.h and core/manager.h.
"""

from __future__ import annotations

from grpc import StatusCode

from gateway import errors
from gateway.servers.faults import (
    CRASH,
    DENIED,
    LATE,
    MEMORY,
    MODEL,
    OF_GRPC,
    OVERLOAD,
    OWN,
    REFUSED,
    SWAP,
    Faults,
    Row,
)
from gateway.servers.tfserving.kind import TFServingKind

_ACCELERATOR = "TensorFlow Serving's accelerator failed"
_QUEUED = "TensorFlow Serving's batch queue for this model is full"
#: The whole text: a file that is not found begins with its name, which a request may choose.
_NOT_SERVED = r"^Servable not found for request: (Latest|Earliest|Specific)\([^()]*\)$"
#: TensorFlow puts where it happened before what happened.
_WHERE = r"^(\d+ root error\(s\) found\.\s*\(0\) \w+: )?(\{\{[^{}]*\}\}\s*)?"
_DEVICE_FAILED = _WHERE + r"(failed to call |unable to launch |attempting to perform )?(CUDA|cuDNN|cuBLAS|Blas|GPU)"

_ROWS = (
    Row(StatusCode.UNAVAILABLE, errors.ResourceExhausted, _QUEUED, OVERLOAD, text="^[^\"']*queue [^\"']*is full"),
    *OF_GRPC,
    Row(StatusCode.INTERNAL, errors.Unavailable, _ACCELERATOR, CRASH, text=_DEVICE_FAILED),
    # Out of memory (OOM when allocating tensor): a smaller batch or a quieter moment may pass.
    Row(StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhausted, OWN, MEMORY),
    Row(StatusCode.NOT_FOUND, errors.NotFound, OWN, MODEL, describing=True),
    Row(StatusCode.NOT_FOUND, errors.Unavailable, errors.SWAPPED, SWAP, text=_NOT_SERVED),
    Row(StatusCode.NOT_FOUND, errors.NotFound, OWN, MODEL),
    Row(StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded, OWN, LATE),
    # 400, as the servers themselves say: what only the model sees in a tensor is no contract broken by us.
    Row(StatusCode.INVALID_ARGUMENT, errors.InvalidArgument, OWN, REFUSED),
    Row(StatusCode.OUT_OF_RANGE, errors.InvalidArgument, OWN, REFUSED),
    Row(StatusCode.FAILED_PRECONDITION, errors.FailedPrecondition, OWN, REFUSED),
    Row(StatusCode.UNIMPLEMENTED, errors.Unimplemented, OWN, MODEL),
    Row(StatusCode.DATA_LOSS, errors.DataLoss, OWN, MODEL),
    # Who may call the server is between it and the gateway, and no matter of the client's.
    Row(StatusCode.UNAUTHENTICATED, errors.Unavailable, "{server} refuses the gateway", DENIED),
    Row(StatusCode.PERMISSION_DENIED, errors.Unavailable, "{server} refuses the gateway", DENIED),
    Row(None, errors.Internal, OWN, MODEL),
)

TFSERVING = Faults(TFServingKind.title, _ROWS)
