"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Callable

from gateway.backends.base import Backend
from gateway.grpc.calls import Calls
from gateway.grpc.server import Services


def services(backend: Backend, calls: Calls, *, ready: Callable[[], bool]) -> Services:
    return {}
