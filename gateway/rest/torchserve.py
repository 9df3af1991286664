"""TorchServe's REST."""

from __future__ import annotations

from collections.abc import Callable

from starlette.routing import BaseRoute

from gateway.backends.base import Backend
from gateway.metrics import Metrics


def routes(backend: Backend, *, ready: Callable[[], bool], metrics: Metrics, max_body_bytes: int) -> list[BaseRoute]:
    return []
