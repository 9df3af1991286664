"""What the servers' own failures mean here: one table for both, in which the first row that fits counts.

A row says what the client is told and what layers make of it (`Fault`). It is data, so that it can be tested row by
row. Sources: what TorchServe 0.12 was seen to answer, and its ``org/pytorch/serve/http``; TensorFlow Serving's texts in
core/platform/errors.h, kernels/batching_util/shared_batch_scheduler.h and core/manager.h; gRPC core's own texts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import grpc

from gateway import errors
from gateway.errors import DuetError, Fault

log = logging.getLogger("duet.backends")

#: A trace, a file, an address, a memory region or a secret.
_INSIDE = re.compile(
    r"Traceback|File \"|(?<![\w.}])/[\w.-]+/[\w./-]+|[\w-]+\.py\b|\b\d{1,3}(?:\.\d{1,3}){3}\b|0x[0-9a-fA-F]{6,}"
    r"|shm_region|(?i:key|token|secret|password)\s*[=:]"
)
_MAX_LOGGED = 2000

TORCHSERVE = "TorchServe"
TFSERVING = "TensorFlow Serving"

_RETRY_AFTER_SECONDS = 1.0


class Lost(Enum):
    """A call without an answer that can be read. gRPC tells of it by codes and texts, HTTP by what the socket did."""

    CONNECT = "no connection"
    CONNECT_LATE = "no connection in time"
    CLOSED = "closed before the first byte of an answer"
    BROKEN = "closed in the middle of an answer"
    UNREADABLE = "what came is no answer"
    TOO_LONG = "an answer larger than the gateway takes"


Signal: TypeAlias = "Lost | int | grpc.StatusCode"

# What happened, and what layers make of it. Overload is no fault of the endpoint: it is shed, not broken.
_DEAD = Fault("unreachable", retry_safe=True, counts=True, unreachable=True)
#: A call that ended without an answer. The next one may have one: a server is not dead for it.
_LOST = Fault("lost", retry_safe=True, counts=True, by_request=True)
_CORRUPT = errors.CORRUPT
_CRASH = Fault("crash", retry_safe=True, counts=True, by_request=True)
_OVERLOAD = Fault("overload", retry_safe=False, counts=False)
#: The version was there when the request was routed: another endpoint may still have it, or already have the next.
_SWAP = errors.SWAP
#: A try after a time-out would queue behind the call that it replaces.
_LATE = Fault("late", retry_safe=False, counts=True)
_TOKEN = Fault("token", retry_safe=True, counts=True, unreachable=True)
#: The same, where a model can say so too: of a file that a request names, say.
_DENIED = Fault("token", retry_safe=True, counts=True, by_request=True)
#: There was no memory for this request: others are smaller, and no reason to send fewer of them.
_MEMORY = Fault("memory", retry_safe=False, counts=False, by_request=True)
#: The request passed our own check against the signature. What only the model can see in it is still the client's.
_REFUSED = Fault("refused", retry_safe=False, counts=False, by_request=True)
_TOO_LARGE = Fault("too_large", retry_safe=False, counts=False, by_request=True)
_MODEL = Fault("model", retry_safe=False, counts=False, by_request=True)


@dataclass(frozen=True, slots=True)
class Row:
    """``server`` and ``signal`` None fit all; ``kind`` is TorchServe's ``type``; ``text`` a pattern of the text.

    A model's own failure may quote what it was sent, so a pattern holds the server's words to their place: it begins
    with ``^``, or nothing is gained by what else fits.
    ``describing`` True fits only calls that ask about models, False only those that run them. ``says`` is for the
    client; ``{text}`` in it is the server's own, which names no address in these rows.
    """

    server: str | None
    signal: Signal | None
    error: type[DuetError]
    says: str
    fault: Fault
    kind: str | None = None
    text: str = ""
    describing: bool | None = None

    @property
    def retry_after_seconds(self) -> float | None:
        """Whoever is told to come later is told when: no answer of 429 or 503 is without it."""
        later = issubclass(self.error, errors.Unavailable | errors.ResourceExhausted)
        return _RETRY_AFTER_SECONDS if later and self.error is not errors.PayloadTooLarge else None

    def fits(self, server: str, signal: Signal, text: str, kind: str, describing: bool) -> bool:
        return (
            self.server in (None, server)
            and self.signal in (None, signal)
            and (self.kind is None or re.fullmatch(self.kind, kind) is not None)
            and re.search(self.text, text, re.IGNORECASE) is not None
            and self.describing in (None, describing)
        )


_HANDLER = "InternalServerException"
_GONE = "ModelNotFoundException|ModelVersionNotFoundException"
_AWAY = "{server} cannot be reached"
_OWN = "{server}: {text}"
_DIED = "TorchServe's worker died of this request or of another"
_BUSY = "TorchServe has no worker free for this model"
_LARGE = "the request or its answer is larger than {server} takes"
_LONG = "the answer is larger than the gateway takes from {server}; ask for fewer rows or outputs"
_ACCELERATOR = "TensorFlow Serving's accelerator failed"
_REFUSES = "TorchServe refuses the gateway's token; check the key file"
_HANDLER_FAILED = "the model's handler in TorchServe failed: {text}"
_QUEUED = "TensorFlow Serving's batch queue for this model is full"
_SWAPPED = errors.SWAPPED
#: The whole text: a file that is not found begins with its name, which a request may choose.
_NOT_SERVED = r"^Servable not found for request: (Latest|Earliest|Specific)\([^()]*\)$"
_NO_CONNECTION = "^(failed to connect to all addresses|connections to all backends failing)($|; last error: )"
#: TensorFlow puts where it happened before what happened.
_WHERE = r"^(\d+ root error\(s\) found\.\s*\(0\) \w+: )?(\{\{[^{}]*\}\}\s*)?"
_DEVICE_FAILED = _WHERE + r"(failed to call |unable to launch |attempting to perform )?(CUDA|cuDNN|cuBLAS|Blas|GPU)"
_Code = grpc.StatusCode

_OF_TORCHSERVE = (
    Row(TORCHSERVE, 404, errors.NotFound, "TorchServe: {text}", _MODEL, kind=_GONE, describing=True),
    Row(TORCHSERVE, 404, errors.Unavailable, _SWAPPED, _SWAP, kind=_GONE),
    Row(TORCHSERVE, 400, errors.Unavailable, _REFUSES, _TOKEN, kind="InvalidKeyException"),
    # 503 alone is overload or a bug in the handler; the type settles it. Whether workers are busy or all dead it does
    # not say: the registry asks each second, and routes nothing to a model without a ready worker.
    Row(TORCHSERVE, 503, errors.ResourceExhausted, _BUSY, _OVERLOAD, kind="ServiceUnavailableException"),
    # Also an answer that took too long or grew too large for TorchServe: it kills the worker.
    Row(TORCHSERVE, 500, errors.Unavailable, _DIED, _CRASH, text=r"^Worker died\.?$"),
    Row(TORCHSERVE, 413, errors.PayloadTooLarge, _LARGE, _TOO_LARGE),
    Row(TORCHSERVE, 507, errors.PayloadTooLarge, _LARGE, _TOO_LARGE, text="too large"),
    Row(TORCHSERVE, 507, errors.Unavailable, _DIED, _CRASH),
    Row(TORCHSERVE, 408, errors.DeadlineExceeded, "TorchServe gave the request up", _LATE),
    # What a handler says itself: PredictionException(text, status).
    Row(TORCHSERVE, 400, errors.InvalidArgument, "{text}", _REFUSED),
    Row(TORCHSERVE, 401, errors.Unauthenticated, "{text}", _MODEL, kind=_HANDLER),
    Row(TORCHSERVE, 403, errors.PermissionDenied, "{text}", _MODEL, kind=_HANDLER),
    Row(TORCHSERVE, 404, errors.NotFound, "{text}", _MODEL, kind=_HANDLER),
    Row(TORCHSERVE, 409, errors.FailedPrecondition, "{text}", _MODEL, kind=_HANDLER),
    Row(TORCHSERVE, 422, errors.InvalidArgument, "{text}", _REFUSED, kind=_HANDLER),
    # Its own reason, of a caller's quota, say: TorchServe's full queue is 503.
    Row(TORCHSERVE, 429, errors.ResourceExhausted, "{text}", _MODEL, kind=_HANDLER),
    Row(TORCHSERVE, 501, errors.Unimplemented, "{text}", _MODEL, kind=_HANDLER),
    Row(TORCHSERVE, 504, errors.DeadlineExceeded, "{text}", _MODEL, kind=_HANDLER),
    # Without TorchServe's type, these are of something that stands between: a proxy or a mesh.
    Row(TORCHSERVE, 502, errors.Unavailable, _AWAY, _LOST, kind=""),
    Row(TORCHSERVE, 503, errors.Unavailable, _AWAY, _LOST, kind=""),
    Row(TORCHSERVE, 504, errors.Unavailable, _AWAY, _LOST, kind=""),
    Row(TORCHSERVE, None, errors.Internal, _HANDLER_FAILED, _MODEL),
)

_OF_TFSERVING = (
    Row(
        TFSERVING, _Code.UNAVAILABLE, errors.ResourceExhausted, _QUEUED, _OVERLOAD, text="^[^\"']*queue [^\"']*is full"
    ),
    # gRPC core's words for a connection that cannot be made, and for one that broke.
    Row(TFSERVING, _Code.UNAVAILABLE, errors.Unavailable, _AWAY, _DEAD, text=_NO_CONNECTION),
    Row(TFSERVING, _Code.UNAVAILABLE, errors.Unavailable, _AWAY, _LOST),
    Row(TFSERVING, _Code.CANCELLED, errors.Unavailable, "TensorFlow Serving gave the call up", _LOST),
    Row(TFSERVING, _Code.INTERNAL, errors.Unavailable, _AWAY, _LOST, text="^(Received )?(RST_STREAM|GOAWAY)"),
    Row(TFSERVING, _Code.INTERNAL, errors.Unavailable, _ACCELERATOR, _CRASH, text=_DEVICE_FAILED),
    # Of the request's making: its caller can ask for less, and joined with others they are asked alone.
    Row(
        TFSERVING, _Code.RESOURCE_EXHAUSTED, errors.PayloadTooLarge, _LONG, _TOO_LARGE, text="CLIENT: Received message"
    ),
    Row(
        TFSERVING, _Code.RESOURCE_EXHAUSTED, errors.PayloadTooLarge, _LARGE, _TOO_LARGE, text="message larger than max"
    ),
    # Out of memory (OOM when allocating tensor): a smaller batch or a quieter moment may pass.
    Row(TFSERVING, _Code.RESOURCE_EXHAUSTED, errors.ResourceExhausted, _OWN, _MEMORY),
    Row(TFSERVING, _Code.NOT_FOUND, errors.NotFound, _OWN, _MODEL, describing=True),
    Row(TFSERVING, _Code.NOT_FOUND, errors.Unavailable, _SWAPPED, _SWAP, text=_NOT_SERVED),
    Row(TFSERVING, _Code.NOT_FOUND, errors.NotFound, _OWN, _MODEL),
    Row(TFSERVING, _Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded, _OWN, _LATE),
    # 400, as the servers themselves say: what only the model sees in a tensor is no contract broken by us.
    Row(TFSERVING, _Code.INVALID_ARGUMENT, errors.InvalidArgument, _OWN, _REFUSED),
    Row(TFSERVING, _Code.OUT_OF_RANGE, errors.InvalidArgument, _OWN, _REFUSED),
    Row(TFSERVING, _Code.FAILED_PRECONDITION, errors.FailedPrecondition, _OWN, _REFUSED),
    Row(TFSERVING, _Code.UNIMPLEMENTED, errors.Unimplemented, _OWN, _MODEL),
    Row(TFSERVING, _Code.DATA_LOSS, errors.DataLoss, _OWN, _MODEL),
    # Who may call the server is between it and the gateway, and no matter of the client's.
    Row(TFSERVING, _Code.UNAUTHENTICATED, errors.Unavailable, "{server} refuses the gateway", _DENIED),
    Row(TFSERVING, _Code.PERMISSION_DENIED, errors.Unavailable, "{server} refuses the gateway", _DENIED),
    Row(TFSERVING, None, errors.Internal, _OWN, _MODEL),
)

_OF_BOTH = (
    Row(None, Lost.CONNECT, errors.Unavailable, _AWAY, _DEAD),
    Row(None, Lost.CONNECT_LATE, errors.Unavailable, _AWAY, _LOST),
    Row(None, Lost.CLOSED, errors.Unavailable, "{server} closed the connection without an answer", _LOST),
    Row(None, Lost.BROKEN, errors.DataLoss, "{server} broke off in the middle of its answer", _CORRUPT),
    Row(None, Lost.UNREADABLE, errors.DataLoss, "{server} sent no valid answer: {text}", _CORRUPT),
    Row(
        None,
        Lost.TOO_LONG,
        errors.PayloadTooLarge,
        "the answer has more than {text} bytes, which is all that the gateway takes; ask for fewer rows or outputs",
        _TOO_LARGE,
    ),
)

TABLE: tuple[Row, ...] = (*_OF_BOTH, *_OF_TORCHSERVE, *_OF_TFSERVING)


def row(server: str, signal: Signal, text: str = "", kind: str = "", *, describing: bool = False) -> Row:
    """The row that counts; the last row of each server fits everything."""
    return next(entry for entry in TABLE if entry.fits(server, signal, text, kind, describing))


def translated(server: str, signal: Signal, text: str = "", kind: str = "", *, describing: bool = False) -> DuetError:
    """The error for the client, with its `Fault`. ``text`` and ``kind`` are the server's own."""
    found = row(server, signal, text, kind, describing=describing)
    says = found.says.format(server=server, text=_scrubbed(server, text))
    error = found.error(says, retry_after_seconds=found.retry_after_seconds)
    error.fault = found.fault
    return error


def _scrubbed(server: str, text: str) -> str:
    """The server's words, unless they tell of its inside: with such words others were broken into.

    What a model says of its input helps who sent it; a trace, a path or an address only those who may see the log.
    """
    if not _INSIDE.search(text):
        return text
    log.warning("%s said: %s", server, text[:_MAX_LOGGED])
    return "the server's log tells what"


@contextmanager
def readable() -> Iterator[None]:
    """Around the decoding of an answer: a DataLoss from inside is the server's fault, and noted as such.

    An Unimplemented is the gateway's lack, which nobody but this request is to suffer from.
    """
    try:
        yield
    except errors.DataLoss as error:
        error.fault = _CORRUPT
        raise
    except errors.Unimplemented as error:
        error.fault = errors.UNSUPPORTED
        raise
