"""ModelRef -> Target, once per request; and the last check of a request before its server's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from gateway import signature
from gateway.backends.base import Backend, Layer
from gateway.core.modelref import DEFAULT_SIGNATURE, ModelRef
from gateway.errors import DuetError, InvalidArgument, MeantFor, NotFound, OpaqueModel, Unavailable, UnknownModel
from gateway.registry import Registry
from gateway.types import InferRequest, InferResponse, ModelMetadata, Signature, Target, VersionMetadata
from gateway.versions import choose


@dataclass(frozen=True, slots=True)
class Rule:
    """How a model that a client did not pin is routed, and what it accepts."""

    default: str
    allow_non_finite: bool = False


class Router:
    """Resolves names, and sends each request to the stack of its target."""

    def __init__(self, *, registry: Registry, backends: Mapping[str, Backend], rules: Mapping[str, Rule]) -> None:
        self._registry = registry
        self._backends = backends
        self._rules = rules
        # Only of refs whose every name is known: clients cannot fill it with names that they make up.
        self._targets: dict[ModelRef, Target] = {}
        self._changes = registry.changes

    def resolve(self, ref: ModelRef) -> Target:
        """The version that serves ``ref``, as far as is known now. No server is asked.

        Raises UnknownModel, NotFound for an unknown variant or label, UnknownVersion, and Unavailable where the version
        is not ready. A signature that the version does not have is no error here: dialects have their own words for it.
        """
        if self._changes != self._registry.changes:
            self._targets.clear()
            self._changes = self._registry.changes
        target = self._targets.get(ref)
        return target if target is not None else self._resolved(ref)

    def describe(self, ref: ModelRef) -> ModelMetadata:
        """What the registry knows of the variant that serves ``ref``; its version may be another one, or not ready."""
        variant = self._variant(ref)
        return self._metadata(ref.model, variant)

    def holds(self, target: Target) -> bool:
        """Whether the target's version is still ready, with the signature that the request was decoded by."""
        if target.changes == self._registry.changes:
            return True
        known = self._registry.known(target.model, target.variant)
        now = known.versions.get(target.version) if known is not None else None
        if now is None or not now.ready or now.opaque != target.opaque:
            return False
        return now.signatures.get(target.ref.signature) == target.signature

    async def infer(self, request: InferRequest) -> InferResponse:
        """Raises InvalidArgument before sending."""
        target = request.target
        if target is None:
            raise TypeError("a request without a target was sent to the router; make it with Target.request")
        try:
            if target.opaque:
                if request.payload is None:
                    raise OpaqueModel(target.model)
                return await target.stack.infer(request)
            declared = _declared(request, target)
            checked = signature.check(request, declared, allow_non_finite=target.allow_non_finite)
            return signature.arranged(await target.stack.infer(checked), request, declared)
        except DuetError as error:
            error.target = target.meant
            if isinstance(error, Unavailable):
                self._registry.suspect(target.variant)
            raise

    async def aclose(self) -> None:
        for backend in self._backends.values():
            await backend.aclose()

    def _resolved(self, ref: ModelRef) -> Target:
        variant = self._variant(ref)
        version = self._version(ref, variant)
        rule = self._rules.get(ref.model)
        found = version.signatures.get(ref.signature)
        allow = rule is not None and rule.allow_non_finite
        target = Target(ref, variant, version, found, self._backends[variant], allow, self._changes)
        if found is not None or (version.opaque and ref.signature == DEFAULT_SIGNATURE):
            self._targets[ref] = target
        return target

    def _variant(self, ref: ModelRef) -> str:
        """The variant that serves ``ref``. Raises NotFound for an unknown model or a pin to a variant it lacks.

        A model that nobody configured has no rule: its first variant serves it, in the order of the servers.
        """
        found = self._registry.variants(ref.model)
        rule = self._rules.get(ref.model)
        variant = ref.variant or (rule.default if rule else next(name for name in self._backends if name in found))
        self._registry.variant(ref.model, variant)
        return variant

    def _metadata(self, model: str, variant: str) -> ModelMetadata:
        state = self._registry.variant(model, variant)
        if state.metadata is None:
            raise Unavailable(f"{model}@{variant} is not ready: {state.reason}", retry_after_seconds=1)
        return state.metadata

    def _version(self, ref: ModelRef, variant: str) -> VersionMetadata:
        number: int | None = None
        try:
            metadata = self._metadata(ref.model, variant)
            wanted = _labelled(metadata, ref.label) if ref.label else ref.version
            number = wanted if wanted in metadata.versions else None  # what a client makes up is no label of a metric
            return choose(metadata, wanted)
        except DuetError as error:
            error.target = MeantFor(ref.model, variant, number)
            if isinstance(error, Unavailable):
                self._registry.suspect(variant)
            raise


class Open:
    """The `gateway.backends.base.Entry` where everybody may do everything."""

    def __init__(self, stack: Backend, router: Router) -> None:
        self.resolve = router.resolve
        self.describe = router.describe
        self.infer = stack.infer


class Swapped(Layer):
    """Answers a request whose version disappears while it is on its way, by the version that has taken its place.

    The request is resolved again, and its body decoded again where its own signature was needed for that: a body that
    was decoded by one version's signature is never sent to another version. The router checks it again. Whoever asked
    for a version by its number gets no other one.

    Stands inside the deadline, which holds for both tries, and around the bounds, which hold for what is decoded again.
    ``models`` gives the names that the caller may be told of, where the model itself is gone.
    """

    def __init__(
        self, inner: Backend, *, router: Router, registry: Registry, models: Callable[[], Iterable[str]]
    ) -> None:
        super().__init__(inner)
        self._router = router
        self._registry = registry
        self._models = models

    async def infer(self, request: InferRequest) -> InferResponse:
        given, target = request, request.target
        if target is None or not self._router.holds(target):
            # What is known has changed since: while the body was being decoded, say.
            request, target = await self._again(request)
        try:
            response = await self.inner.infer(request)
        except Unavailable as error:
            if not target.ref.floats or error.fault is None or error.fault.name != "swap":
                raise
            await self._registry.look(target.variant)
            request, _ = await self._again(request)
            response = await self.inner.infer(request)
        if request is given or response.rows is not None:
            return response
        return replace(response, rows=request.rows)  # the front knows only those that it decoded first

    async def _again(self, request: InferRequest) -> tuple[InferRequest, Target]:
        """The request for what its ref stands for now."""
        if request.target is None:
            raise TypeError("a request without a target was sent; make it with Target.request")
        try:
            target = self._router.resolve(request.target.ref)
        except UnknownModel as error:
            raise UnknownModel(request.model, self._models()) from error
        if request.reread is None:
            return replace(request, version=target.version, variant=target.variant, target=target), target
        again = await target.read(request.reread)
        # What a front adds once the body is decoded.
        again = replace(again, deadline=request.deadline, criticality=request.criticality)
        return again, again.target or target


def _declared(request: InferRequest, target: Target) -> Signature:
    declared = target.signature
    if declared is None or request.payload is not None:
        name = target.ref.signature
        raise InvalidArgument(f"no signature {name!r}; the model's signatures are {target.signature_names}")
    return declared


def _labelled(metadata: ModelMetadata, label: str) -> int:
    """Raises NotFound for a label that stands for no version."""
    try:
        return metadata.labels[label]
    except KeyError:
        known = ", ".join(sorted(metadata.labels)) or "none"
        raise NotFound(f"{metadata.model} has no label {label!r}; its labels are {known}") from None
