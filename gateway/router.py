"""Model -> variant -> Backend: pins first, then the model's rule. Requests are checked against the signature here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway import signature
from gateway.backends.base import Backend
from gateway.errors import DuetError, InvalidArgument, OpaqueModel, Target, Unavailable
from gateway.pins import split_pin
from gateway.registry import Registry
from gateway.types import InferRequest, InferResponse, ModelMetadata, Signature, VersionMetadata


@dataclass(frozen=True, slots=True)
class Rule:
    """How a model that a client did not pin is routed, and what it accepts."""

    default: str
    allow_non_finite: bool = False


class Router:
    """Sends each request to its variant's backend. Raises NotFound, Unavailable, InvalidArgument before sending."""

    def __init__(self, *, registry: Registry, backends: Mapping[str, Backend], rules: Mapping[str, Rule]) -> None:
        self._registry = registry
        self._backends = backends
        self._rules = rules

    def variant(self, model: str, pin: str | None) -> str:
        """The variant that serves ``model``. Raises NotFound for an unknown model or a pin to a variant it lacks.

        A model that nobody configured has no rule: its first variant serves it, in the order of the servers.
        """
        found = self._registry.variants(model)
        rule = self._rules.get(model)
        variant = pin or (rule.default if rule else next(name for name in self._backends if name in found))
        self._registry.variant(model, variant)
        return variant

    async def infer(self, request: InferRequest) -> InferResponse:
        try:
            return await self._infer(request)
        except Unavailable as error:
            if request.version is not None or error.target is None or not _is_swap(error):
                raise
            # The version was taken away while the request was on its way. Its client asked for none in particular, and
            # gets the next one as soon as it is known.
            await self._registry.look(error.target.variant)
            return await self._infer(request)

    async def _infer(self, request: InferRequest) -> InferResponse:
        variant = self.variant(request.model, request.variant)
        target = Target(request.model, variant, request.version)
        try:
            version = self._registry.resolve(request.model, variant, request.version)
            target = Target(request.model, variant, version.version)
            routed = request.routed(variant, version.version)
            response = await self._backends[variant].infer(self._checked(routed, version))
            return response if version.opaque else signature.arranged(response, routed, self._declared(routed, version))
        except DuetError as error:
            error.target = target
            if isinstance(error, Unavailable):
                self._registry.suspect(variant)
            raise

    def _checked(self, request: InferRequest, version: VersionMetadata) -> InferRequest:
        if version.opaque:
            if request.payload is None:
                raise OpaqueModel(request.model)
            return request
        declared = self._declared(request, version)
        rule = self._rules.get(request.model)
        allow = rule is not None and rule.allow_non_finite
        return signature.check(request, declared, allow_non_finite=allow)

    def _declared(self, request: InferRequest, version: VersionMetadata) -> Signature:
        declared = version.signatures.get(request.signature_name)
        if declared is None or request.payload is not None:
            known = ", ".join(sorted(version.signatures)) or "none"
            raise InvalidArgument(f"no signature {request.signature_name!r}; the model's signatures are {known}")
        return declared

    async def metadata(self, model: str) -> ModelMetadata:
        """What the registry knows of the model's default variant, or of the one that ``model@variant`` pins."""
        name, pin = split_pin(model)
        variant = self.variant(name, pin)
        state = self._registry.variant(name, variant)
        if state.metadata is None:
            raise Unavailable(f"{name}@{variant} is not ready: {state.reason}", retry_after_seconds=1)
        return state.metadata

    async def models(self) -> Collection[str]:
        return sorted(self._registry.models)

    async def aclose(self) -> None:
        for backend in self._backends.values():
            await backend.aclose()


def _is_swap(error: Unavailable) -> bool:
    return error.fault is not None and error.fault.name == "swap"
