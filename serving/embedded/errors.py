"""Failures with gRPC's codes and TensorFlow Serving's texts."""

from __future__ import annotations

import grpc

#: util/grpc_status_util.cc cuts longer texts, since they travel in a header.
MAX_MESSAGE = 1024


class ServingError(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        #: Uncut, for a transport without the limit.
        self.full = message
        self.message = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "...TRUNCATED"


def invalid_argument(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)
