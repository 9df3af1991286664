"""Which models, versions, signatures and health there are: asked of the servers in the background, read by everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.backends.base import Server
from gateway.core.modelref import is_model_name
from gateway.errors import DuetError, NotFound, UnknownModel
from gateway.signature import like
from gateway.types import DEFAULT_SIGNATURE, ModelMetadata, Signature

log = logging.getLogger("duet.registry")

_MIN_SECONDS_BETWEEN = 0.1


@dataclass(frozen=True, slots=True)
class VariantState:
    """What was last heard of one variant of a model: its metadata, or why there is none."""

    metadata: ModelMetadata | None
    reason: str = ""

    @property
    def ready(self) -> bool:
        return self.metadata is not None and self.metadata.ready


_UNHEARD = VariantState(None, "its server has not answered yet")


class Registry:
    """Asks each server about each of its models every ``refresh_seconds``, and at once when `suspect` is called.

    ``variants`` maps each configured model to the names of the variants that it may have, ``servers`` each of those
    names to the server that serves it. With ``discover``, what a server lists is there too, as long as it lists it.
    """

    def __init__(
        self,
        *,
        servers: Mapping[str, Server],
        variants: Mapping[str, Iterable[str]],
        refresh_seconds: float = 1.0,
        discover: bool = False,
    ) -> None:
        self._servers = servers
        self._discover = discover
        self._configured = {model: frozenset(names) for model, names in variants.items()}
        self._states: dict[str, dict[str, VariantState]] = {
            model: dict.fromkeys(names, _UNHEARD) for model, names in variants.items()
        }
        #: Names of the models currently known.
        self.models: Collection[str] = self._states.keys()
        #: Counts how often what is known here has changed: what was made of it holds while this stays the same.
        self.changes = 0
        self._orders: dict[str, Signature] = {}
        self._refresh_seconds = refresh_seconds
        self._wakes = {name: asyncio.Event() for name in servers}
        self._looks: dict[str, asyncio.Future[None]] = {}
        self._asked = {name: asyncio.Event() for name in servers}
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: dict[str, list[Callable[[str], None]]] = {name: [] for name in servers}

    @property
    def any_ready(self) -> bool:
        return any(state.ready for states in self._states.values() for state in states.values())

    def variants(self, model: str) -> Mapping[str, VariantState]:
        """Raises NotFound for a model that is not configured."""
        try:
            return self._states[model]
        except KeyError:
            raise UnknownModel(model, self._states) from None

    def variant(self, model: str, variant: str) -> VariantState:
        """Raises NotFound for a model or variant that is not configured."""
        states = self.variants(model)
        try:
            return states[variant]
        except KeyError:
            raise NotFound(f"model {model!r} has no variant {variant!r}; it has {', '.join(sorted(states))}") from None

    def known(self, model: str, variant: str) -> ModelMetadata | None:
        """What was last heard, None where that is nothing. Unlike `variant` it raises nothing."""
        state = self._states.get(model, {}).get(variant)
        return state.metadata if state is not None else None

    def on_change(self, variant: str, listener: Callable[[str], None]) -> None:
        """``listener`` is called with a model's name when other versions of it are ready than before, or none."""
        self._listeners[variant].append(listener)

    def suspect(self, variant: str) -> None:
        """A call to this variant's server failed: look at it now, not at the next turn."""
        self._wakes[variant].set()

    def start(self) -> None:
        """Asks every server at once, and goes on in the background until `aclose`."""
        self._tasks = [asyncio.create_task(self._keep_fresh(name)) for name in self._servers]

    async def look(self, variant: str) -> None:
        """Looks at this variant's server now, and returns when all is known that it says."""
        self.suspect(variant)
        look = self._looks.get(variant)
        if look is None:
            look = self._looks[variant] = asyncio.get_running_loop().create_future()
        await asyncio.shield(look)

    async def asked(self, *, seconds: float) -> None:
        """Waits until every server was asked about all once, but no longer than ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for asked in self._asked.values():
                    await asked.wait()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_fresh(self, name: str) -> None:
        wake = self._wakes[name]
        while True:
            wake.clear()
            looked = self._looks.pop(name, None)
            await self._refresh(name)
            self._asked[name].set()
            if looked is not None:
                looked.set_result(None)
            # However many calls fail, the server is asked at most ten times a second.
            await asyncio.sleep(_MIN_SECONDS_BETWEEN)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_seconds):
                    await wake.wait()

    async def _refresh(self, name: str) -> None:
        await self._find(name)
        models = [model for model, states in self._states.items() if name in states]
        states = await asyncio.gather(*(self._ask(name, model) for model in models))
        for model, state in zip(models, states, strict=True):
            self._note(model, name, state)

    async def _ask(self, name: str, model: str) -> VariantState:
        try:
            return VariantState(await self._servers[name].metadata(model))
        except DuetError as error:
            return VariantState(None, error.message)
        except Exception:
            log.exception("asking %s about %s failed", name, model)
            return VariantState(None, "its server gave an answer that could not be understood")

    async def _find(self, name: str) -> None:
        """Adds what the server lists, and takes away what it no longer does; what is configured stays."""
        if not self._discover:
            return
        try:
            listed = await self._servers[name].models()
        except DuetError:
            return  # silent: nothing is known to be gone
        if listed is None:
            return
        for model in listed:
            if is_model_name(model) and model not in self._configured:
                states = self._states.setdefault(model, {})
                if name not in states:
                    states[name] = _UNHEARD
                    self.changes += 1
        for model in [model for model, states in self._states.items() if name in states]:
            if model not in listed and model not in self._configured:
                log.info("%s@%s is gone", model, name)
                del self._states[model][name]
                self.changes += 1
                if not self._states[model]:
                    del self._states[model]
                    self._orders.pop(model, None)

    def _in_order(self, model: str, state: VariantState) -> VariantState:
        """The state with its signatures in the order of a twin's, where they have none of their own.

        The twin's is remembered: an answer must not change its order because a server is down.
        """
        order = _order(state)
        if order is not None:
            self._orders[model] = order
        if state.metadata is None or order is not None or model not in self._orders:
            return state
        return VariantState(_ordered(state.metadata, self._orders[model]), state.reason)

    def _note(self, model: str, variant: str, state: VariantState) -> None:
        if variant not in self._states.get(model, {}):
            return
        before, state = self._states[model][variant], self._in_order(model, state)
        if state == before:
            return
        self._states[model][variant] = state
        self.changes += 1
        if _serving(before) != _serving(state):
            for listener in self._listeners[variant]:
                listener(model)
            if _order(state) is not None:
                for twin in self._states[model]:
                    if twin != variant:
                        self._note(model, twin, self._states[model][twin])
        if (before.ready, before.reason) == (state.ready, state.reason):
            return
        if state.ready:
            log.info("%s@%s is ready", model, variant)
        else:
            log.warning("%s@%s is not ready: %s", model, variant, state.reason or "no version is ready")


def _serving(state: VariantState) -> Mapping[int, Mapping[str, Signature]]:
    """The versions that are ready, by what tells one from another of the same number."""
    if state.metadata is None:
        return {}
    return {number: version.signatures for number, version in state.metadata.versions.items() if version.ready}


def _order(state: VariantState) -> Signature | None:
    """The default version's signature, where it tells an order."""
    metadata = state.metadata
    chosen = metadata.versions[metadata.default].signature if metadata and metadata.default is not None else None
    return chosen if chosen is not None and chosen.ordered else None


def _ordered(metadata: ModelMetadata, twin: Signature) -> ModelMetadata:
    versions = dict(metadata.versions)
    for number, version in versions.items():
        if version.signature is not None and not version.signature.ordered:
            signatures = {**version.signatures, DEFAULT_SIGNATURE: like(version.signature, twin)}
            versions[number] = replace(version, signatures=signatures)
    return replace(metadata, versions=versions)
