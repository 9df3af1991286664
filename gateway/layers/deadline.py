"""A request is answered by its deadline, or fails with DeadlineExceeded then."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.backends.base import Backend, Layer
from gateway.errors import DeadlineExceeded
from gateway.types import InferRequest, InferResponse


class Deadline(Layer):
    """Gives a request without a deadline ``default_seconds`` from now, and holds every request to its own."""

    def __init__(self, inner: Backend, *, default_seconds: float) -> None:
        super().__init__(inner)
        self._default_seconds = default_seconds

    async def infer(self, request: InferRequest) -> InferResponse:
        if request.deadline is None:
            request = replace(request, deadline=asyncio.get_running_loop().time() + self._default_seconds)
        try:
            async with asyncio.timeout_at(request.deadline):
                return await self.inner.infer(request)
        except TimeoutError:
            raise DeadlineExceeded(f"{request.model} did not answer before the request's deadline") from None
