"""The one interface all the way down: servers' clients, resilience layers and the router are Backends."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from gateway.core.modelref import ModelRef
from gateway.errors import Fault
from gateway.types import InferRequest, InferResponse, ModelMetadata, Target


class Backend(Protocol):
    """Something that answers inference requests. Every failure is a `gateway.errors.DuetError`."""

    async def infer(self, request: InferRequest) -> InferResponse: ...

    async def aclose(self) -> None: ...


class Server(Backend, Protocol):
    """A Backend that also describes its models: a client of one server, or of several endpoints together."""

    async def metadata(self, model: str) -> ModelMetadata:
        """The model's versions and signatures. Raises NotFound, or Unavailable where the server is silent."""
        ...

    async def models(self) -> Collection[str] | None:
        """The names of the models that are there; None where that cannot be asked."""
        ...


class Entry(Protocol):
    """What a front is given. It resolves the names of a request once, and sends what it has decoded by the answer."""

    def resolve(self, ref: ModelRef) -> Target:
        """The version that serves ``ref`` now. Asks no server. Raises NotFound, or Unavailable where none is ready."""
        ...

    def describe(self, ref: ModelRef) -> ModelMetadata:
        """What is known of the variant that serves ``ref``, ready or not. Raises NotFound, Unavailable."""
        ...

    async def infer(self, request: InferRequest) -> InferResponse: ...


def completed(entry: Entry, ref: ModelRef, target: Target | None) -> Target:
    """The target of ``ref``, of which ``target`` was resolved before the body had said more: signature, variant."""
    found = target.named(ref) if target is not None else None
    return found if found is not None else entry.resolve(ref)


#: What stands for a model's name where all models of an endpoint are meant.
WHOLE = "*"


class Guard(Protocol):
    """Whether an endpoint may be called, from what came of its calls. Times are seconds of a monotonic clock."""

    def admits(self, model: str) -> bool: ...

    def due(self, model: str, now: float) -> bool:
        """Whether what is not admitted may be tried once."""
        ...

    def trying(self, model: str, now: float) -> None:
        """A try begins; `tried` tells how it ended, with None where that is not known."""
        ...

    def tried(self, model: str, well: bool | None, now: float) -> None: ...

    def answered(self, model: str) -> None: ...

    def failed(self, model: str, fault: Fault, now: float, *, may_doubt: bool = False) -> None:
        """``may_doubt``: before the endpoint is taken out, it can be asked what it has answered before."""
        ...

    def late(
        self,
        model: str,
        seconds: float,
        usual_seconds: float,
        now: float,
        callers: int,
        *,
        may_doubt: bool = False,
    ) -> None:
        """A call for so many was given up after ``seconds``."""
        ...

    def silent(self, model: str, seconds: float, now: float) -> None:
        """The endpoint answered nothing for so long while others did. It is doubted at once."""
        ...

    def doubts(self, model: str) -> bool:
        """Whether the endpoint is to be asked that now; `judged` says what came of it."""
        ...

    def judged(self, model: str, well: bool, now: float) -> None: ...

    def hung(self, model: str, now: float) -> None:
        """The endpoint says that it is well, and computes nothing."""
        ...

    def reached(self, now: float) -> None:
        """The endpoint has told about its models."""
        ...

    def close(self) -> None:
        """The endpoint is gone."""
        ...

    def state(self) -> dict[str, Any]:
        """For operators: the models that the endpoint is out for, or `WHOLE`, and why."""
        ...


class Layer:
    """A Backend around a Backend. A layer overrides what it changes; what it does not touch passes through."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    async def infer(self, request: InferRequest) -> InferResponse:
        return await self.inner.infer(request)

    async def aclose(self) -> None:
        await self.inner.aclose()
