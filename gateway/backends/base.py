"""The one interface all the way down: servers' clients, resilience layers and the router are Backends."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from gateway.types import InferRequest, InferResponse, ModelMetadata


class Backend(Protocol):
    """Something that answers inference requests. Every failure is a `gateway.errors.DuetError`."""

    async def infer(self, request: InferRequest) -> InferResponse: ...

    async def metadata(self, model: str) -> ModelMetadata:
        """The model's versions and signatures. Raises NotFound, or Unavailable where the server is silent."""
        ...

    async def models(self) -> Collection[str] | None:
        """The names of the models that are there; None where that cannot be asked."""
        ...

    async def aclose(self) -> None: ...


class Layer:
    """A Backend around a Backend. A layer overrides what it changes; what it does not touch passes through."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    async def infer(self, request: InferRequest) -> InferResponse:
        return await self.inner.infer(request)

    async def metadata(self, model: str) -> ModelMetadata:
        return await self.inner.metadata(model)

    async def models(self) -> Collection[str] | None:
        return await self.inner.models()

    async def aclose(self) -> None:
        await self.inner.aclose()
