"""Which models, versions, signatures and health there are: asked of the servers in the background, read by everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from gateway.backends.base import Backend
from gateway.errors import DuetError, NotFound, Unavailable
from gateway.types import ModelMetadata, VersionMetadata
from gateway.versions import choose

log = logging.getLogger("duet.registry")

_MIN_SECONDS_BETWEEN = 0.1
_MISSES_ALLOWED = 3


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

    ``variants`` maps each model to the names of the variants that it may have, ``servers`` each of those names to the
    server that serves it. A server that is asked has ``answer_seconds``; it is not ready once it stays silent
    `_MISSES_ALLOWED` times in a row, since a busy server may be late once.
    """

    def __init__(
        self,
        *,
        servers: Mapping[str, Backend],
        variants: Mapping[str, Iterable[str]],
        refresh_seconds: float = 1.0,
        answer_seconds: float = 2.0,
    ) -> None:
        self._servers = servers
        self._answer_seconds = answer_seconds
        self._misses: dict[tuple[str, str], int] = {}
        self._states: dict[str, dict[str, VariantState]] = {
            model: dict.fromkeys(names, _UNHEARD) for model, names in variants.items()
        }
        self._refresh_seconds = refresh_seconds
        self._wakes = {name: asyncio.Event() for name in servers}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def models(self) -> Iterable[str]:
        return self._states.keys()

    @property
    def any_ready(self) -> bool:
        return any(state.ready for states in self._states.values() for state in states.values())

    def variants(self, model: str) -> Mapping[str, VariantState]:
        """Raises NotFound for a model that is not configured."""
        try:
            return self._states[model]
        except KeyError:
            raise NotFound(f"unknown model {model!r}; the models are {', '.join(sorted(self._states))}") from None

    def variant(self, model: str, variant: str) -> VariantState:
        """Raises NotFound for a model or variant that is not configured."""
        states = self.variants(model)
        try:
            return states[variant]
        except KeyError:
            raise NotFound(f"model {model!r} has no variant {variant!r}; it has {', '.join(sorted(states))}") from None

    def resolve(self, model: str, variant: str, version: int | None) -> VersionMetadata:
        """The ready version that serves the request. Raises NotFound, or Unavailable where none is ready now."""
        state = self.variant(model, variant)
        if state.metadata is None:
            raise Unavailable(f"{model}@{variant} is not ready: {state.reason}", retry_after_seconds=1)
        return choose(state.metadata, version)

    def suspect(self, variant: str) -> None:
        """A call to this variant's server failed: look at it now, not at the next turn."""
        self._wakes[variant].set()

    def start(self) -> None:
        """Asks every server at once, and goes on in the background until `aclose`."""
        self._tasks = [asyncio.create_task(self._keep_fresh(name)) for name in self._servers]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_fresh(self, name: str) -> None:
        wake = self._wakes[name]
        while True:
            wake.clear()
            await self._refresh(name)
            # However many calls fail, the server is asked at most ten times a second.
            await asyncio.sleep(_MIN_SECONDS_BETWEEN)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_seconds):
                    await wake.wait()

    async def _refresh(self, name: str) -> None:
        models = [model for model, states in self._states.items() if name in states]
        states = await asyncio.gather(*(self._ask(name, model) for model in models))
        for model, state in zip(models, states, strict=True):
            self._note(model, name, state)

    async def _ask(self, name: str, model: str) -> VariantState:
        try:
            async with asyncio.timeout(self._answer_seconds):
                state = VariantState(await self._servers[name].metadata(model))
        except TimeoutError:
            misses = self._misses[name, model] = self._misses.get((name, model), 0) + 1
            if misses < _MISSES_ALLOWED:
                return self._states[model][name]
            return VariantState(None, "its server does not answer")
        except DuetError as error:
            return VariantState(None, error.message)
        except Exception:
            log.exception("asking %s about %s failed", name, model)
            return VariantState(None, "its server gave an answer that could not be understood")
        self._misses.pop((name, model), None)
        return state

    def _note(self, model: str, variant: str, state: VariantState) -> None:
        before = self._states[model][variant]
        self._states[model][variant] = state
        if (before.ready, before.reason) == (state.ready, state.reason):
            return
        if state.ready:
            log.info("%s@%s is ready", model, variant)
        else:
            log.warning("%s@%s is not ready: %s", model, variant, state.reason or "no version is ready")
