"""What the gateway counts and times, in Prometheus's terms.

Labels hold configured names only: a model that is not configured is counted under `UNKNOWN`, so that a scanner cannot
make series. Children are looked up in a dict, which costs a tenth of prometheus_client's own ``labels()``.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

UNKNOWN = "__unknown__"

#: Seconds: 250 us, where a small model through the gateway begins, to 30 s, the default deadline.
_BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 30)

_SIZES = tuple(2**exponent for exponent in range(11))


disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The gateway's metrics, in a registry that is given so that two gateways can live in one process.

    ``exposed`` is the registry that is shown where it is another: that of all workers together. Each gauge says by its
    ``multiprocess_mode`` how it adds up over them.
    """

    def __init__(self, registry: CollectorRegistry, *, exposed: CollectorRegistry | None = None) -> None:
        self.registry = registry
        self._exposed = exposed or registry
        served = ("model", "variant", "version", "front")
        requests = Counter("duet_requests", "Requests answered, by gRPC code.", (*served, "code"), registry=registry)
        seconds = Histogram(
            "duet_request_seconds",
            "Time from a request's first byte in to its answer's last byte out.",
            served,
            registry=registry,
            buckets=_BUCKETS,
        )
        rows = Counter("duet_rows", "Rows (first dimension) of answered requests.", served, registry=registry)
        backend = Histogram(
            "duet_backend_seconds",
            "Time that one attempt at a server took, failed ones too.",
            ("model", "variant", "version"),
            registry=registry,
            buckets=_BUCKETS,
        )
        faults = Counter(
            "duet_server_faults",
            "Failures of servers by what they are: overload, crash, refused and so on.",
            ("model", "variant", "fault"),
            registry=registry,
        )
        in_flight = Gauge(
            "duet_requests_in_flight",
            "Requests being answered now.",
            ("front",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        batch_rows = Histogram(
            "duet_batch_rows",
            "Rows of each run of a model whose rows may be joined: of one request, or of those that waited together.",
            ("model", "variant", "version"),
            registry=registry,
            buckets=_SIZES,
        )
        queue_seconds = Histogram(
            "duet_queue_seconds",
            "Time that a request waited to be sent with others; those that went at once are not among them.",
            ("model", "variant", "version"),
            registry=registry,
            buckets=_BUCKETS,
        )
        batching_samples = Counter(
            "duet_batching_samples",
            "Batches that were asked again request by request, to see whether their rows are independent.",
            ("model", "variant", "version"),
            registry=registry,
        )
        batching_differences = Counter(
            "duet_batching_differences",
            "Batches whose answers were not what each request is answered alone: batching is off for that version.",
            ("model", "variant", "version"),
            registry=registry,
        )
        cache_requests = Counter(
            "duet_cache_requests",
            "Requests to a model with a cache, by outcome: hit, miss, joined (to the same one on its way).",
            ("model", "variant", "outcome"),
            registry=registry,
        )
        cache_bytes = Gauge(
            "duet_cache_bytes",
            "Bytes that a model's kept answers take.",
            ("model", "variant"),
            registry=registry,
            multiprocess_mode="livesum",
        )

        self.connections = Gauge(
            "duet_connections", "HTTP connections of clients.", registry=registry, multiprocess_mode="livesum"
        )
        self.body_bytes = Gauge(
            "duet_body_bytes",
            "Bytes of requests' bodies that are held until their answer.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        cut = Counter(
            "duet_connections_cut",
            "Connections that the gateway ended: headers, body, stalled, idle (the client was too slow), crowded, "
            "bytes (as many as there may be). gRPC: unread (an answer was not read), halves (messages without an end), "
            "flood (frames that are no message).",
            ("reason",),
            registry=registry,
        )

        log_lines_dropped = Counter(
            "duet_log_lines_dropped",
            "Log lines that were not written, since whoever reads the stream did not keep up.",
            ("stream",),
            registry=registry,
        )

        @cache
        def log_lines_dropped_of(stream: str) -> Counter:
            return log_lines_dropped.labels(stream)

        @cache
        def requests_of(model: str, variant: str, version: str, front: str, code: str) -> Counter:
            return requests.labels(model, variant, version, front, code)

        @cache
        def seconds_of(model: str, variant: str, version: str, front: str) -> Histogram:
            return seconds.labels(model, variant, version, front)

        @cache
        def rows_of(model: str, variant: str, version: str, front: str) -> Counter:
            return rows.labels(model, variant, version, front)

        @cache
        def backend_seconds(model: str, variant: str, version: int | None) -> Histogram:
            return backend.labels(model, variant, str(version))

        @cache
        def faults_of(model: str, variant: str, fault: str) -> Counter:
            return faults.labels(model, variant, fault)

        @cache
        def batch_rows_of(model: str, variant: str, version: int | None) -> Histogram:
            return batch_rows.labels(model, variant, str(version))

        @cache
        def queue_seconds_of(model: str, variant: str, version: int | None) -> Histogram:
            return queue_seconds.labels(model, variant, str(version))

        @cache
        def batching_samples_of(model: str, variant: str, version: int | None) -> Counter:
            return batching_samples.labels(model, variant, str(version))

        @cache
        def batching_differences_of(model: str, variant: str, version: int | None) -> Counter:
            return batching_differences.labels(model, variant, str(version))

        @cache
        def cache_requests_of(model: str, variant: str, outcome: str) -> Counter:
            return cache_requests.labels(model, variant, outcome)

        @cache
        def cache_bytes_of(model: str, variant: str) -> Gauge:
            return cache_bytes.labels(model, variant)

        @cache
        def cut_of(reason: str) -> Counter:
            return cut.labels(reason)

        @cache
        def in_flight_of(front: str) -> Gauge:
            return in_flight.labels(front)

        self.requests = requests_of
        self.request_seconds = seconds_of
        self.rows = rows_of
        self.backend_seconds = backend_seconds
        self.faults = faults_of
        self.batch_rows = batch_rows_of
        self.queue_seconds = queue_seconds_of
        self.batching_samples = batching_samples_of
        self.batching_differences = batching_differences_of
        self.cache_requests = cache_requests_of
        self.cache_bytes = cache_bytes_of
        self.in_flight = in_flight_of
        self.cut = cut_of
        self.log_lines_dropped = log_lines_dropped_of

    def exposition(self) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self._exposed)
