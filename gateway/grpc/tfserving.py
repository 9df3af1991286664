"""TensorFlow Serving over gRPC."""

from __future__ import annotations

from gateway.backends.base import Backend
from gateway.grpc.calls import Calls
from gateway.grpc.server import Services


def services(backend: Backend, calls: Calls) -> Services:
    return {}
