"""Settings -> layers, for the composition root, which says in which order they stand.

A layer that is off is not there. Each has settings for all models; a model's own replace single fields of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from gateway.backends.base import WHOLE, Backend, Guard, Server
from gateway.config import Model, Settings
from gateway.layers import settings as tuned
from gateway.layers.batching import Batching
from gateway.layers.breaker import Breaker, Policy
from gateway.layers.cache import Cache
from gateway.layers.gate import Waits
from gateway.layers.hedge import Hedge
from gateway.layers.independence import Operator, setting_of
from gateway.layers.lane import Batch
from gateway.layers.limit import Bounds, Budget, Limit
from gateway.layers.queue import Limits
from gateway.layers.retry import Again, Retry
from gateway.layers.signals import Signals
from gateway.layers.validation import Validation
from gateway.metrics import Metrics
from gateway.registry import Registry
from gateway.servers.balanced import Balanced, Unguarded
from gateway.servers.kinds import kind_of
from gateway.types import ModelMetadata

log = logging.getLogger("duet.endpoints")

#: Requests in flight for one model that a server is given at least: batched, and where it takes one at a time. The
#: latter keeps below TorchServe's own queue, 100 requests, which refuses what is above.
_LEAST_BATCHED = 256
_LEAST_SINGLE = 96

_Of = TypeVar("_Of", bound=tuned.Switched)
_To = TypeVar("_To")


class Layering:
    """Makes the layers of one gateway; what they share (the budget, the metrics) is made once."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._signals = Signals(metrics.registry)
        self._budget = Budget(settings.max_bytes_in_flight)
        self.limits: dict[str, Limit] = {}
        self.retries: dict[str, Retry] = {}
        self.servers: dict[str, Balanced] = {}
        self._batchings: dict[str, Batching] = {}
        self._registries: dict[str, Registry] = {}

    @property
    def balanced(self) -> bool:
        return self._settings.balance.enabled

    def batched(self, inner: Backend, variant: str, registry: Registry, *, again: Backend) -> Backend:
        """``again`` is the way to the server around retries and metrics."""
        default, models = self._chosen(lambda model: model.batching, self._settings.batching, _batch)
        if default is not None:
            default = replace(default, operator=self._operator(None, variant))
        for name, batch in models.items():
            if batch is not None:
                models[name] = replace(
                    batch, operator=self._operator(self._settings.models[name].batching, variant, name)
                )
        if default is None and not any(models.values()):
            return inner
        self._registries[variant] = registry
        self._batchings[variant] = Batching(
            inner,
            metadata=lambda model: registry.known(model, variant),
            metrics=self._metrics,
            default=default,
            models=models,
            again=again,
        )
        return self._batchings[variant]

    def _operator(self, own: tuned.Batching | None, variant: str, model: str = "") -> Operator:
        """The word about one model goes before the word about all."""
        said = own.rows_of(variant) if own is not None else None
        if said is not None:
            return Operator(said, setting_of(model))
        return Operator(self._settings.batching.rows_of(variant))

    def state(self) -> dict[str, Any]:
        """What the layers of this process hold now, for operators."""
        return {
            name: {
                "endpoints": self.servers[name].state() if name in self.servers else {},
                "limits": self.limits[name].state() if name in self.limits else {},
                "retries": self.retries[name].state() if name in self.retries else {},
                "batching": self._batching_state(name),
            }
            for name in self._settings.servers
        }

    def _batching_state(self, variant: str) -> dict[str, Any]:
        if variant not in self._batchings:
            return {}
        return self._batchings[variant].state(sorted(self._registries[variant].models))

    def retried(self, inner: Backend, variant: str) -> Backend:
        default, models = self._chosen(lambda model: model.retry, self._settings.retry, _again)
        if default is None and not any(models.values()):
            return inner
        retry = Retry(inner, variant=variant, signals=self._signals, default=default, models=models)
        self.retries[variant] = retry
        return retry

    def again(self, variant: str, model: str) -> bool:
        """Whether an overdue call may be sent again: as a retry may."""
        return variant in self.retries and self.retries[variant].spare(model)

    def validated(self, inner: Server) -> Server:
        if not self._settings.validation.enabled:
            return inner
        models = self._settings.models.items()
        finite = frozenset(name for name, model in models if model.finite_outputs)
        by_row = frozenset(name for name, model in models if model.outputs_by_row)
        return Validation(inner, finite=finite, by_row=by_row)

    def hedged(self, inner: Backend, variant: str) -> Backend:
        if not kind_of(self._settings.servers[variant]).may_be_hedged:
            return inner
        default, models = self._chosen(lambda model: model.hedge, self._settings.hedge, lambda hedge: hedge.share)
        if default is None and not any(models.values()):
            return inner
        return Hedge(inner, variant=variant, signals=self._signals, default=default, models=models)

    def guard(self, variant: str, address: str) -> Guard:
        default, models = self._chosen(lambda model: model.breaker, self._settings.breaker, _policy)
        if default is None and not any(models.values()):
            return Unguarded()

        def told(model: str, what: str) -> None:
            log.warning("%s: endpoint %s for %s %s", variant, address, "all models" if model == WHOLE else model, what)

        return Breaker(variant, self._signals, default, models, told)

    def limited(self, inner: Backend, variant: str, registry: Registry) -> Backend:
        default, models = self._chosen(lambda model: model.limit, self._settings.limit, _bounds)
        if default is None and not any(models.values()):
            return inner
        self.limits[variant] = Limit(
            inner,
            variant=variant,
            signals=self._signals,
            budget=self._budget,
            places=lambda model: self._places(model, variant, registry.known(model, variant)),
            default=default,
            models=models,
        )
        return self.limits[variant]

    def cached(self, inner: Backend, variant: str, registry: Registry) -> Backend:
        sizes = {name: model.cache.max_bytes for name, model in self._settings.models.items() if model.cache}
        if not sizes:
            return inner
        cache = Cache(inner, max_bytes=sizes, metrics=self._metrics, variant=variant)
        registry.on_change(variant, cache.forget)
        return cache

    def _places(self, model: str, variant: str, known: ModelMetadata | None) -> int:
        """Twice what the server works on: while one batch is computed, the next one gathers."""
        batching = self._settings.batching_of(model)
        calls = known.parallelism if known else 1
        if variant not in self._batchings or not self._batchings[variant].joins(model):
            return max(_LEAST_SINGLE, 2 * calls)
        return max(_LEAST_BATCHED, 2 * (batching.in_flight or calls) * batching.max_rows)

    def _chosen(
        self, of: Callable[[Model], _Of | None], default: _Of, made: Callable[[_Of], _To]
    ) -> tuple[_To | None, dict[str, _To | None]]:
        """What holds for all models, and for those with settings of their own; None where it is switched off."""
        own = {name: of(model) for name, model in self._settings.models.items()}
        whole = {name: tuned.followed(entry, default) for name, entry in own.items() if entry is not None}
        models = {name: made(entry) if entry.enabled else None for name, entry in whole.items()}
        return made(default) if default.enabled else None, models


def _batch(batching: tuned.Batching) -> Batch:
    limits = Limits(batching.max_rows, batching.max_bytes)
    return Batch(limits, batching.in_flight, sample_share=batching.sample_share)


def _again(retry: tuned.Retry) -> Again:
    return Again(retry.share, retry.per_second, retry.wait_seconds)


def _policy(breaker: tuned.Breaker) -> Policy:
    return Policy(breaker.failures, breaker.rate, breaker.slow_seconds, breaker.probe_seconds)


def _bounds(limit: tuned.Limit) -> Bounds:
    waits = Waits(limit.target_seconds, limit.interval_seconds, limit.queue)
    return Bounds(limit.least, limit.initial, limit.most, limit.calm_seconds, waits)
