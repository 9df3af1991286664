"""Around all layers: no name is resolved and nothing below is asked for a prediction without a grant.

A model that is not granted is answered as one that does not exist, at the same place and in the same words: from here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

from gateway.backends.base import Backend, Layer
from gateway.core.modelref import ModelRef
from gateway.errors import UnknownModel
from gateway.security.access import ACCESS, NOBODY, NOT_GRANTED, OVER_QUOTA, Access
from gateway.security.grants import Verb
from gateway.security.quotas import QuotaExceeded, Quotas
from gateway.types import InferRequest, InferResponse, ModelMetadata, Target


class Resolver(Protocol):
    """What `gateway.router.Router` does with names."""

    def resolve(self, ref: ModelRef) -> Target: ...

    def describe(self, ref: ModelRef) -> ModelMetadata: ...


class Guard(Layer):
    """The `gateway.backends.base.Entry` where callers have grants. ``names`` gives the models that there are."""

    def __init__(
        self, inner: Backend, *, router: Resolver, names: Callable[[], Collection[str]], quotas: Quotas
    ) -> None:
        super().__init__(inner)
        self._router = router
        self._names = names
        self._quotas = quotas

    def infer(self, request: InferRequest) -> Coroutine[Any, Any, InferResponse]:
        """Checks at once: what is left to wait for is the layer below's."""
        access = self._checked(request.model, Verb.PREDICT)
        elements = 0
        for tensor in request.inputs:
            elements += tensor.data.size
        access.elements += elements
        if access.identity.quota is not None:
            self._spend(access, elements)
        return self.inner.infer(request)

    def resolve(self, ref: ModelRef) -> Target:
        """What a front resolves before it predicts needs no grant of its own: the front has said what it is about."""
        self._checked(ref.model, None)
        return self._router.resolve(ref)

    def describe(self, ref: ModelRef) -> ModelMetadata:
        self._checked(ref.model, None)
        return self._router.describe(ref)

    def visible(self) -> list[str]:
        """The models that the caller may be told of."""
        access = ACCESS.get()
        if access is None:
            return []
        allow = access.identity.grants.allow
        return [name for name in self._names() if allow(Verb.METADATA, name)]

    def _spend(self, access: Access, elements: int) -> None:
        """The body's bytes once, though one may bring several predictions. Raises QuotaExceeded."""
        try:
            self._quotas.spend(access.identity, elements=elements, bytes=access.bytes_in - access.bytes_taken)
        except QuotaExceeded:
            access.verdict = OVER_QUOTA
            raise
        access.bytes_taken = access.bytes_in

    def _checked(self, model: str, verb: Verb | None) -> Access:
        """Raises UnknownModel for what is not granted or not there; both do the same work."""
        access = ACCESS.get() or Access(NOBODY)
        access.model = model
        granted = access.identity.grants.allow(access.verb if verb is None else verb, model)
        there = model in self._names()
        if not (granted and there):
            access.verdict = NOT_GRANTED
            raise UnknownModel(model, self.visible())
        return access
