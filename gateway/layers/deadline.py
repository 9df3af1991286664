"""A request is answered by its deadline, or fails with DeadlineExceeded then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.backends.base import Backend, Layer
from gateway.errors import DeadlineExceeded
from gateway.types import InferRequest, InferResponse


class Deadline(Layer):
    """Gives a request without a deadline its model's, or ``default_seconds``, and holds every request to its own."""

    def __init__(self, inner: Backend, *, default_seconds: float, models: Mapping[str, float] | None = None) -> None:
        super().__init__(inner)
        self._default_seconds = default_seconds
        self._models = models or {}

    async def infer(self, request: InferRequest) -> InferResponse:
        if request.deadline is None:
            seconds = self._models.get(request.model, self._default_seconds)
            request = request.due(asyncio.get_running_loop().time() + seconds)
        try:
            async with asyncio.timeout_at(request.deadline):
                return await self.inner.infer(request)
        except TimeoutError:
            raise DeadlineExceeded(f"{request.model} did not answer before the request's deadline") from None
