"""Failures by gRPC code, with TensorFlow Serving's texts.

One exception serves every part: the parts below `services.py` know codes but no gRPC.
"""

from __future__ import annotations

from enum import IntEnum

MESSAGE_LIMIT = 1024
"""Longest message sent to a client, in characters (TF Serving, model_servers/grpc_status_util.cc)."""


class Code(IntEnum):
    """The canonical codes; the numbers are those of gRPC, of absl::Status and of tensorflow.error.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """A failure with a code and a message meant for the caller; `str()` is absl::Status's text, `CODE: message`."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid_argument(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    return ServingError(Code.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    return ServingError(Code.FAILED_PRECONDITION, message)


def truncated(message: str) -> str:
    """The message as a client sees it.

    >>> truncated("x" * 1025)[-14:]
    'xxx...TRUNCATED'
    """
    return message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "...TRUNCATED"
