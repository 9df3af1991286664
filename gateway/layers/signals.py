"""What the layers tell the operator: their state, and what they did to requests."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


class Signals:
    """Metrics of the layers, in a registry that is given. Children are looked up in a dict, as in `Metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        of_model = ("model", "variant")
        limit = Gauge(
            "duet_limit",
            "Requests that may be in flight now.",
            of_model,
            registry=registry,
            multiprocess_mode="livesum",
        )
        admitted = Gauge(
            "duet_limit_in_flight",
            "Requests in flight when the limit was last judged.",
            of_model,
            registry=registry,
            multiprocess_mode="livesum",
        )
        waited = Histogram(
            "duet_limit_wait_seconds",
            "Time that a request waited because the limit was reached.",
            of_model,
            registry=registry,
            buckets=_SECONDS,
        )
        refused = Counter(
            "duet_refused",
            "Requests refused by the gateway: queue (too many wait), age (waited too long), shed (by criticality), "
            "bytes (too many in flight).",
            (*of_model, "reason"),
            registry=registry,
        )

        @cache
        def limit_of(model: str, variant: str) -> Gauge:
            return limit.labels(model, variant)

        @cache
        def admitted_of(model: str, variant: str) -> Gauge:
            return admitted.labels(model, variant)

        @cache
        def waited_of(model: str, variant: str) -> Histogram:
            return waited.labels(model, variant)

        @cache
        def refused_of(model: str, variant: str, reason: str) -> Counter:
            return refused.labels(model, variant, reason)

        self.limit = limit_of
        self.admitted = admitted_of
        self.waited = waited_of
        self.refused = refused_of
