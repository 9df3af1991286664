"""Server-side batching: calls that arrive together run as one (batching/batching_session.cc, --enable_batching).

The first call of a batch waits for others, runs it for all, and hands out the rows; so there are no threads of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.embedded.errors import ServingError, invalid_argument
from serving.embedded.model import Run
from serving.embedded.tensors import Array


@dataclass(frozen=True, slots=True)
class Parameters:
    """BatchingParameters of session_bundle_config.proto, with its defaults. Raises ValueError where they clash."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    thread_pool_name: str = "batch_threads"

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise ValueError("allowed_batch_sizes entries must be increasing, and the last must be max_batch_size")


@dataclass(slots=True)
class _Batch:
    tasks: list[Sequence[Array]] = field(default_factory=list)
    rows: int = 0
    deadlines: list[float | None] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    results: list[list[Array]] = field(default_factory=list)
    error: ServingError | None = None


class Batcher:
    """`run` is as the servable's own, and may be called by any thread."""

    def __init__(
        self,
        run: Run,
        parameters: Parameters,
        *,
        report: Callable[[str, list[float]], None] = lambda pool, microseconds: None,
    ) -> None:
        self._run = run
        self._report = report
        self._parameters = parameters
        self._lock = threading.Lock()
        self._open: dict[object, _Batch] = {}
        self._waiting = 0
        self._running = threading.BoundedSemaphore(max(parameters.num_batch_threads, 1))

    def run(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], *, deadline: float | None = None
    ) -> list[Array]:
        """Raises ServingError: besides TensorFlow's, INVALID_ARGUMENT and UNAVAILABLE for what cannot be queued."""
        rows = _rows(values)
        if rows > self._parameters.max_batch_size:
            if self._parameters.enable_large_batch_splitting:
                return self._run(feeds, values, fetches, deadline=deadline)
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {self._parameters.max_batch_size}"
            )
        # Only rows of one form go together; the real server refuses others that meet in a batch.
        key = (tuple(feeds), tuple(fetches), tuple((value.shape[1:], value.dtype) for value in values))
        batch, place = self._join(key, rows, values, deadline)
        if place == 0:
            self._lead(key, batch, feeds, fetches)
        else:
            batch.done.wait()
        if batch.error:
            raise batch.error
        return batch.results[place]

    def _join(self, key: object, rows: int, values: Sequence[Array], deadline: float | None) -> tuple[_Batch, int]:
        with self._lock:
            batch = self._open.get(key)
            if batch is not None and batch.rows + rows > self._parameters.max_batch_size:
                batch.full.set()
                batch = None
            if batch is None:
                if self._waiting >= self._parameters.max_enqueued_batches:
                    text = "The batch scheduling queue to which this task was submitted is full"
                    raise ServingError(grpc.StatusCode.UNAVAILABLE, text)
                batch = self._open[key] = _Batch()
                self._waiting += 1
            batch.tasks.append(values)
            batch.rows += rows
            batch.deadlines.append(deadline)
            batch.arrivals.append(time.monotonic())
            if batch.rows == self._parameters.max_batch_size:
                batch.full.set()
            return batch, len(batch.tasks) - 1

    def _lead(self, key: object, batch: _Batch, feeds: Sequence[str], fetches: Sequence[str]) -> None:
        batch.full.wait(self._parameters.batch_timeout_micros / 1e6)
        with self._running:  # others join while all threads are at work
            with self._lock:
                self._waiting -= 1
                if self._open.get(key) is batch:
                    del self._open[key]
            now = time.monotonic()
            try:
                deadline = _latest(batch.deadlines)
                if deadline is not None and deadline <= now:
                    text = "Run() timeout exceeded while waiting in batching queue"
                    raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
                waited = [(now - arrival) * 1e6 for arrival in batch.arrivals]
                self._report(self._parameters.thread_pool_name, waited)
                batch.results = self._together(batch, feeds, fetches, deadline)
            except ServingError as error:
                batch.error = error
            except Exception as error:
                batch.error = ServingError(grpc.StatusCode.INTERNAL, "the server failed on this batch")
                raise batch.error from error
            finally:
                batch.done.set()

    def _together(
        self, batch: _Batch, feeds: Sequence[str], fetches: Sequence[str], deadline: float | None
    ) -> list[list[Array]]:
        sizes = [len(task[0]) for task in batch.tasks]
        padding = self._padding(batch.rows)
        columns = [_joined(column, padding) for column in zip(*batch.tasks, strict=True)]
        outputs = self._run(feeds, columns, fetches, deadline=deadline)
        for output in outputs:
            if not output.ndim or len(output) != batch.rows + padding:
                raise ServingError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
                    "the input tensors",
                )
        ends = np.cumsum(sizes).tolist()
        return [[output[end - size : end] for output in outputs] for size, end in zip(sizes, ends, strict=True)]

    def _padding(self, rows: int) -> int:
        return next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows) - rows


def _latest(deadlines: Sequence[float | None]) -> float | None:
    """Of a whole batch: None if one of its calls has none."""
    known = [deadline for deadline in deadlines if deadline is not None]
    return max(known) if len(known) == len(deadlines) else None


def _rows(values: Sequence[Array]) -> int:
    if not values or any(not value.ndim for value in values):
        raise invalid_argument("Batching session Run() input tensors must have at least one dimension")
    sizes = {len(value) for value in values}
    if len(sizes) > 1:
        raise invalid_argument("Batching session Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _joined(parts: Sequence[Array], padding: int) -> Array:
    """The first row again where more are needed: always a valid one."""
    if len(parts) == 1 and not padding:
        return parts[0]
    fill = [np.repeat(parts[0][:1], padding, axis=0)] if padding else []
    return np.concatenate([*parts, *fill])
