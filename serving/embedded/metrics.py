"""TensorFlow Serving's own metrics, for Prometheus (util/prometheus_exporter.cc and where each is counted).

Names are the real server's paths with ``:`` for every other character, which no client library allows; so the text is
written here. Every family is listed from the start, as the real page does, be it empty or not.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from types import TracebackType

import grpc

from serving.embedded.errors import ServingError
from serving.embedded.model import Slow


def _exponential(scale: float, factor: float, count: int) -> list[float]:
    return [scale * factor**power for power in range(count)]


#: Microseconds.
_LATENCY = _exponential(10, 1.8, 33)
_COUNTERS = (
    ":tensorflow:cc:saved_model:load_attempt_count",
    ":tensorflow:cc:saved_model:load_latency",
    ":tensorflow:core:graph_run_time_usecs",
    ":tensorflow:core:graph_runs",
    ":tensorflow:serving:batching_session:wrapped_run_count",
    ":tensorflow:serving:request_count",
    ":tensorflow:serving:request_example_count_total",
    ":tensorflow:serving:request_log_count",  # of requests that are logged to files, which this server cannot
)
_HISTOGRAMS = {
    ":tensorflow:serving:batching_session:queuing_latency": _exponential(100, 1.2, 52),
    ":tensorflow:serving:model_warmup_latency": _LATENCY,
    ":tensorflow:serving:request_example_counts": _exponential(1, 2, 15),
    ":tensorflow:serving:request_latency": _LATENCY,
    ":tensorflow:serving:runtime_latency": _LATENCY,
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts requests and times them. Any thread may call anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, int]] = {name: {} for name in _COUNTERS}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {name: {} for name in _HISTOGRAMS}

    def observe(self, model: str, api: str, entrypoint: str) -> Observation:
        """A context around one request. A model that is not served is not named: names of strangers would fill the
        memory."""
        return Observation(self, model, api, entrypoint)

    def answered(self, model: str, api: str, entrypoint: str, code: grpc.StatusCode, microseconds: float) -> None:
        """One request has ended."""
        with self._lock:
            self._add(":tensorflow:serving:request_count", (("model_name", model), ("status", code.name)), 1)
            if code is grpc.StatusCode.OK:
                labels = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
                self._sample(":tensorflow:serving:request_latency", labels, microseconds)

    def ran(self, model: str, api: str, microseconds: float) -> None:
        """One run of a model's graph for a request, that went well."""
        labels = (("model_name", model), ("API", api), ("runtime", "TF1"))
        with self._lock:
            self._sample(":tensorflow:serving:runtime_latency", labels, microseconds)
            self._add(":tensorflow:core:graph_runs", (), 1)
            self._add(":tensorflow:core:graph_run_time_usecs", (), int(microseconds))

    def examples(self, model: str, count: int) -> None:
        """tf.Examples of one request."""
        with self._lock:
            self._sample(":tensorflow:serving:request_example_counts", (("model", model),), count)
            self._add(":tensorflow:serving:request_example_count_total", (("model", model),), count)

    def loaded(self, path: str, status: str, microseconds: float) -> None:
        """``status`` is ``success`` or ``fail`` (tensorflow/cc/saved_model/loader.cc)."""
        with self._lock:
            self._add(":tensorflow:cc:saved_model:load_attempt_count", (("model_path", path), ("status", status)), 1)
            self._add(":tensorflow:cc:saved_model:load_latency", (("model_path", path),), int(microseconds))

    def warmed_up(self, path: str, microseconds: float) -> None:
        """A failed warm-up is not counted, as in saved_model_warmup_util.cc, which returns before."""
        with self._lock:
            labels = (("model_path", path), ("status", "OK"))
            self._sample(":tensorflow:serving:model_warmup_latency", labels, microseconds)

    def batched(self, pool: str, waited_microseconds: Sequence[float]) -> None:
        """One batch began to run; each of its calls had waited this long."""
        with self._lock:
            self._add(":tensorflow:serving:batching_session:wrapped_run_count", (), 1)
            for waited in waited_microseconds:
                self._sample(
                    ":tensorflow:serving:batching_session:queuing_latency", (("thread_pool_name", pool),), waited
                )

    def text(self) -> str:
        """The page: Prometheus text format 0.0.4."""
        lines = []
        with self._lock:
            for name in sorted([*self._counters, *self._histograms]):
                if name in self._counters:
                    lines.append(f"# TYPE {name} counter")
                    lines += [f"{name}{_braced(labels)} {count}" for labels, count in self._counters[name].items()]
                else:
                    lines.append(f"# TYPE {name} histogram")
                    for labels, histogram in self._histograms[name].items():
                        lines += histogram.lines(name, labels)
        return "\n".join(lines) + "\n"

    def _add(self, name: str, labels: Labels, count: int) -> None:
        cells = self._counters[name]
        cells[labels] = cells.get(labels, 0) + count

    def _sample(self, name: str, labels: Labels, value: float) -> None:
        cells = self._histograms[name]
        if labels not in cells:
            cells[labels] = _Histogram(_HISTOGRAMS[name])
        cells[labels].add(value)


class Observation:
    __slots__ = ("_api", "_begun", "_entrypoint", "_metrics", "_model")

    def __init__(self, metrics: Metrics, model: str, api: str, entrypoint: str) -> None:
        self._metrics, self._model, self._api, self._entrypoint = metrics, model, api, entrypoint

    def __enter__(self) -> None:
        self._begun = time.perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Slow:
            return  # it runs elsewhere, and is counted there
        took, code = (time.perf_counter_ns() - self._begun) / 1000, grpc.StatusCode.OK
        if error is not None:
            code = error.code if isinstance(error, ServingError) else grpc.StatusCode.INTERNAL
        model = "" if code is grpc.StatusCode.NOT_FOUND else self._model
        self._metrics.answered(model, self._api, self._entrypoint, code, took)


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, total in zip([*map("{:g}".format, self._bounds), "+Inf"], accumulate(self._buckets), strict=True):
            yield f"{name}_bucket{_braced((*labels, ('le', bound)))} {total}"
        yield f"{name}_sum{_braced(labels)} {self._sum:g}"
        yield f"{name}_count{_braced(labels)} {total}"


def _braced(labels: Labels) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels) + "}"
