"""Everything that can go wrong with a request, named after gRPC's status codes; each front renders it in its own shape.

DuetError
├── InvalidArgument          the request itself is wrong
│   ├── NotAcceptable        the answer cannot be written in the form asked for
│   └── OpaqueModel          tensors for a model whose bodies only its own handler understands
├── NotFound                 no such model, version or variant
│   ├── UnknownModel         not there, or not for this caller: nobody can tell which
│   └── UnknownVersion       the model and the variant are there
├── FailedPrecondition       right request, wrong state
├── PermissionDenied
├── Unauthenticated
├── ResourceExhausted        too much: slow down, or send less
│   └── PayloadTooLarge
├── DeadlineExceeded         not done in time
├── Unavailable              the server behind cannot be reached or is not ready: try again later
├── DataLoss                 the server behind sent something that is no valid answer
├── Unimplemented
└── Internal                 a defect of ours, or one that a server admits to
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Code(Enum):
    """gRPC's status codes (grpc/doc/statuscodes.md); the values are their numbers on the wire."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


#: Characters of an error's text, of which gRPC makes up to twelve bytes each in a header.
MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class MeantFor:
    """The version of a variant that a failed request was meant for; ``version`` is None where it is no known one."""

    model: str
    variant: str
    version: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """What layers make of a server's failure; ``name`` is for metrics (`gateway.servers.faults` has them all).

    ``retry_safe``: the same request may do better at another endpoint or at the same one soon. ``counts``: a sign that
    the endpoint is not well. ``unreachable``: nothing can be called there, whichever model.

    ``by_request``: one request can cause it, by accident or on purpose. So it is not held against others: what was
    asked with it is asked alone, and an endpoint is taken out only once it also fails what it has answered before.
    """

    name: str
    retry_safe: bool
    counts: bool
    unreachable: bool = False
    by_request: bool = False


#: What a server answered is no answer to what it was asked.
CORRUPT = Fault("corrupt", retry_safe=True, counts=True, by_request=True)
#: A whole answer that differs from what the model itself declares, or that the gateway has no form for.
UNDECLARED = Fault("undeclared", retry_safe=False, counts=False, by_request=True)
UNSUPPORTED = Fault("unsupported", retry_safe=False, counts=False, by_request=True)
#: The version was there when the request was routed.
SWAP = Fault("swap", retry_safe=True, counts=False)
SWAPPED = "the version is just being taken away or replaced; try again"


class DuetError(Exception):
    """``message`` is for the client: what was wrong and what to do. ``target`` is set once the router has chosen one.

    ``fault`` is set where a server failed; None is a failure of the request, or one of ours. ``endpoint`` is the
    address that failed, for other layers and the log and never for clients.
    """

    code = Code.INTERNAL

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        # What a client sent comes back in it: a name of megabytes must not.
        self.message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."
        super().__init__(self.message)
        self.retry_after_seconds = retry_after_seconds
        self.target: MeantFor | None = None
        self.fault: Fault | None = None
        self.endpoint: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by what it holds: subclasses take other arguments than the message."""
        return _rebuilt, (type(self), self.args), self.__dict__.copy()


def _rebuilt(kind: type[DuetError], arguments: tuple[Any, ...]) -> DuetError:
    made = kind.__new__(kind)
    made.args = arguments
    return made


class InvalidArgument(DuetError):
    code = Code.INVALID_ARGUMENT


class NotAcceptable(InvalidArgument):
    pass


class OpaqueModel(InvalidArgument):
    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} takes bodies that only its own handler understands, and no tensors; "
            f"call it as TorchServe is called: POST /predictions/{model}, or gRPC Predictions"
        )


class NotFound(DuetError):
    code = Code.NOT_FOUND


class UnknownModel(NotFound):
    """``known`` are the models that the caller may be told of."""

    def __init__(self, model: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown model {model!r}; the models are {', '.join(sorted(known))}")


class UnknownVersion(NotFound):
    pass


class FailedPrecondition(DuetError):
    code = Code.FAILED_PRECONDITION


class PermissionDenied(DuetError):
    code = Code.PERMISSION_DENIED


class Unauthenticated(DuetError):
    code = Code.UNAUTHENTICATED


class ResourceExhausted(DuetError):
    code = Code.RESOURCE_EXHAUSTED


class PayloadTooLarge(ResourceExhausted):
    pass


class DeadlineExceeded(DuetError):
    code = Code.DEADLINE_EXCEEDED


class Unavailable(DuetError):
    code = Code.UNAVAILABLE


class DataLoss(DuetError):
    code = Code.DATA_LOSS


class Unimplemented(DuetError):
    code = Code.UNIMPLEMENTED


class Internal(DuetError):
    code = Code.INTERNAL
