"""TensorFlow Serving's REST."""

from __future__ import annotations

from starlette.routing import BaseRoute

from gateway.backends.base import Backend
from gateway.metrics import Metrics


def routes(backend: Backend, *, metrics: Metrics, max_body_bytes: int) -> list[BaseRoute]:
    return []
