"""Times one attempt at one server, next to its client."""

from __future__ import annotations

from time import perf_counter

from gateway.backends.base import Backend, Layer
from gateway.errors import DuetError
from gateway.metrics import Metrics
from gateway.types import InferRequest, InferResponse


class Timed(Layer):
    """Observes the seconds that the server took, and notes them in the answer as ``backend``."""

    def __init__(self, inner: Backend, *, metrics: Metrics, variant: str) -> None:
        super().__init__(inner)
        self._metrics = metrics
        self._variant = variant

    async def infer(self, request: InferRequest) -> InferResponse:
        start = perf_counter()
        try:
            response = await self.inner.infer(request)
        except DuetError as error:
            if error.fault is not None:
                self._metrics.faults(request.model, self._variant, error.fault.name).inc()
            raise
        finally:
            seconds = perf_counter() - start
            self._metrics.backend_seconds(request.model, self._variant, request.version).observe(seconds)
        response.timings["backend"] = seconds
        return response
