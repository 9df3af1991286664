"""TensorFlow Serving's own metrics, for Prometheus (servables/tensorflow/util.cc, util/prometheus_exporter.cc).

Names are the real server's paths with ``:`` for every other character, which no client library allows; so the text is
written here.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import grpc

from serving.embedded.errors import ServingError

#: Microseconds: scale 10, factor 1.8, 33 buckets.
BOUNDS = [10 * 1.8**power for power in range(33)]
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counts requests and times them. Any thread may call anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Labels, int] = {}
        self._latencies: dict[Labels, _Histogram] = {}

    @contextmanager
    def observe(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Around one request. A model that is not served is not named: names of strangers would fill the memory."""
        begun, code = time.perf_counter_ns(), grpc.StatusCode.OK
        try:
            yield
        except ServingError as error:
            code = error.code
            if code is grpc.StatusCode.NOT_FOUND:
                model = ""
            raise
        except BaseException:
            code = grpc.StatusCode.INTERNAL
            raise
        finally:
            self._count(model, api, entrypoint, code, (time.perf_counter_ns() - begun) / 1000)

    def text(self) -> str:
        """The page: Prometheus text format 0.0.4."""
        with self._lock:
            lines = ["# TYPE :tensorflow:serving:request_count counter"]
            lines += [f":tensorflow:serving:request_count{_braced(key)} {n}" for key, n in self._counts.items()]
            lines += ["# TYPE :tensorflow:serving:request_latency histogram"]
            for labels, histogram in self._latencies.items():
                lines += histogram.lines(":tensorflow:serving:request_latency", labels)
        return "\n".join(lines) + "\n"

    def _count(self, model: str, api: str, entrypoint: str, code: grpc.StatusCode, microseconds: float) -> None:
        count_key = (("model_name", model), ("status", code.name))
        latency_key = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
        with self._lock:
            self._counts[count_key] = self._counts.get(count_key, 0) + 1
            if code is grpc.StatusCode.OK:
                self._latencies.setdefault(latency_key, _Histogram()).add(microseconds)


class _Histogram:
    def __init__(self) -> None:
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._buckets[bisect_left(BOUNDS, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, total in zip([*map("{:g}".format, BOUNDS), "+Inf"], accumulate(self._buckets), strict=True):
            yield f"{name}_bucket{_braced((*labels, ('le', bound)))} {total}"
        yield f"{name}_sum{_braced(labels)} {self._sum:g}"
        yield f"{name}_count{_braced(labels)} {total}"


def _braced(labels: Labels) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels) + "}"
