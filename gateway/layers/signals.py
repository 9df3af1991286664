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

        ejected = Gauge(
            "duet_ejected_endpoints",
            'Endpoints that get no requests for a model, or, with model "*", none at all.',
            of_model,
            registry=registry,
            multiprocess_mode="livemax",
        )
        ejections = Counter(
            "duet_ejections",
            "Times that an endpoint was taken out, by why: absent, failures, rate, silent, hung.",
            (*of_model, "reason"),
            registry=registry,
        )
        probes = Counter(
            "duet_probes",
            "Tries at endpoints that were taken out, by outcome: well, failed.",
            (*of_model, "outcome"),
            registry=registry,
        )
        retries = Counter(
            "duet_retries",
            "Failures that might have been tried again, by outcome: retried, late (too little time left), budget; and "
            "overdue: calls to a silent endpoint that were sent to another one too.",
            (*of_model, "outcome"),
            registry=registry,
        )

        hedges = Counter(
            "duet_hedges",
            "Calls that were sent a second time since they took long, by which one answered: first, second.",
            (*of_model, "won"),
            registry=registry,
        )

        @cache
        def hedges_of(model: str, variant: str, won: str) -> Counter:
            return hedges.labels(model, variant, won)

        self.hedges = hedges_of

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

        @cache
        def ejected_of(model: str, variant: str) -> Gauge:
            return ejected.labels(model, variant)

        @cache
        def ejections_of(model: str, variant: str, reason: str) -> Counter:
            return ejections.labels(model, variant, reason)

        @cache
        def probes_of(model: str, variant: str, outcome: str) -> Counter:
            return probes.labels(model, variant, outcome)

        @cache
        def retries_of(model: str, variant: str, outcome: str) -> Counter:
            return retries.labels(model, variant, outcome)

        self.ejected = ejected_of
        self.ejections = ejections_of
        self.probes = probes_of
        self.retries = retries_of
        self.limit = limit_of
        self.admitted = admitted_of
        self.waited = waited_of
        self.refused = refused_of
