"""The requests for one signature of one version: which go at once, which wait, and what is joined."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from gateway.backends.base import Backend
from gateway.errors import (
    DataLoss,
    DeadlineExceeded,
    DuetError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PayloadTooLarge,
    Unavailable,
)
from gateway.layers import rows
from gateway.layers.independence import Evidence, Independence, Operator, setting_of
from gateway.layers.queue import Limits, Pace, Queue, Waiting
from gateway.layers.sample import Sample, Turns
from gateway.metrics import Metrics
from gateway.types import InferRequest, InferResponse, ModelMetadata, Rows, Signature, in_step

log = logging.getLogger("duet.batching")

#: What one request can do to the others of its batch. A server that is away or overloaded is not asked again.
_OF_ONE_REQUEST = (InvalidArgument, FailedPrecondition, PayloadTooLarge, DataLoss, Internal)

#: A call that takes this many times as long as usual no longer holds its place: others must not wait for it.
_PATIENCE = 10
_LEAST_PATIENCE_SECONDS = 0.1
_FIRST_PATIENCE_SECONDS = 1.0
#: The deadline of each call of a sample: nobody waits for it.
_SAMPLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Batch:
    """How a model's requests are joined. ``in_flight`` None follows what the server says of itself.

    ``operator`` is what its settings say of its rows, ``sample_share`` the part of batches that are asked again.
    """

    limits: Limits
    in_flight: int | None = None
    operator: Operator = Operator()  # noqa: RUF009 - frozen
    sample_share: float = 0.001


@dataclass(slots=True, eq=False)
class _Flight:
    """A call that is on its way: for one request, or in a task of its own for those that waited."""

    started: float
    request: InferRequest
    batch: Sequence[Waiting] = ()
    task: asyncio.Task[None] | None = None


class Lane:
    """The queue of one signature of one version, and the calls in flight for it.

    ``again`` answers what a sample asks: a way to the server on which nothing is charged to callers. ``evidence`` is
    shared by the lanes of the version's signatures. Each process has lanes of its own and judges for itself.
    """

    def __init__(
        self,
        inner: Backend,
        again: Backend,
        *,
        batch: Batch,
        signature: Signature,
        known: ModelMetadata,
        version: int | None,
        independence: Independence,
        evidence: Evidence,
        buffers: rows.Buffers,
        metrics: Metrics,
    ) -> None:
        self.signature = signature
        self.evidence = evidence
        self._inner = inner
        self._again = again
        self._batch = batch
        self._buffers = buffers
        self._loop = asyncio.get_running_loop()
        labels = (known.model, known.variant, version)
        self._batch_rows = metrics.batch_rows(*labels)
        self._queue_seconds = metrics.queue_seconds(*labels)
        self._samples = metrics.batching_samples(*labels)
        self._differences = metrics.batching_differences(*labels)
        self._name = f"{known.model}@{known.variant} version {version}"
        self._queue = Queue()
        self._flights: dict[_Flight, None] = {}
        self._of_waiting: dict[Waiting, _Flight] = {}
        self._pace = Pace()
        self._usual_seconds = _FIRST_PATIENCE_SECONDS / _PATIENCE
        self._look_again: asyncio.TimerHandle | None = None
        self._turns = Turns(batch.sample_share)
        self._sample: asyncio.Task[None] | None = None
        self.follow(known, independence)

    @property
    def idle(self) -> bool:
        return not self._flights and not self._queue and self._sample is None

    @property
    def joins(self) -> bool:
        """Whether its requests are joined. Otherwise they pass beside it."""
        return self._independent and not self.evidence.refuted

    def follow(self, known: ModelMetadata, independence: Independence) -> None:
        """Takes over what the server last said of itself, and what is known of the rows now."""
        self.known = known
        self.independence = independence
        self._independent = independence.rows is Rows.INDEPENDENT
        self._places = self._batch.in_flight or known.parallelism
        limits = self._batch.limits
        most = independence.max_rows
        self._limits = limits if most is None else replace(limits, max_rows=min(most, limits.max_rows))

    async def infer(self, request: InferRequest) -> InferResponse:
        now = self._loop.time()
        if request.deadline is not None and request.deadline <= now:
            raise _too_late(request)
        if len(self._flights) < self._places and not self._queue:
            return await self._alone(request, now)
        # Where nothing can be joined there is nothing to wait for.
        if not self._can_join(request):
            return await self._alone(request, now)
        size_bytes = rows.size_bytes(request)
        # What would be alone in its batch need not wait for it either.
        if 2 * request.rows > self._limits.max_rows or 2 * size_bytes > self._limits.max_bytes:
            return await self._alone(request, now)
        return await self._queued(request, size_bytes)

    def retire(self) -> None:
        """Another lane takes its place. What waits and what is on its way is still answered; no sample is finished."""
        if self._sample is not None:
            self._sample.cancel()

    def close(self) -> None:
        """Ends what is in flight and refuses what waits. Nothing comes after it."""
        if self._look_again is not None:
            self._look_again.cancel()
        for task in [self._sample, *(flight.task for flight in self._flights)]:
            if task is not None:
                task.cancel()
        while self._queue:
            waiting, expired = self._queue.take(0.0, limits=self._limits, pace=self._pace)
            _fail([*waiting, *expired], Unavailable("the gateway was told to stop at once", retry_after_seconds=1))

    def _can_join(self, request: InferRequest) -> bool:
        """Not where an input is left out, there are no rows, or inputs have different numbers of them."""
        inputs = request.inputs
        return len(inputs) == len(self.signature.inputs) and bool(request.rows) and in_step(inputs)

    async def _alone(self, request: InferRequest, now: float) -> InferResponse:
        flight = _Flight(now, request)
        self._flights[flight] = None
        try:
            response = await self._inner.infer(request)
        finally:
            self._ended(flight)
        count = self.signature.rows_of(request.inputs)
        self._batch_rows.observe(count)
        self._learn(count, self._loop.time() - now, response, of_rows=self._can_join(request))
        return response

    async def _queued(self, request: InferRequest, size_bytes: int) -> InferResponse:
        group = rows.group(request, self.signature)
        waiting = Waiting(request, group, size_bytes, perf_counter(), self._loop.create_future())
        self._queue.add(waiting)
        self._send()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            self._left(waiting)
            raise

    def _left(self, waiting: Waiting) -> None:
        """Its caller is gone: out of the queue, or, where nobody else waits for its call, an end to that."""
        self._queue.discard(waiting)
        if waiting.answer.done() and not waiting.answer.cancelled():
            waiting.answer.exception()  # it came at the same moment; asyncio complains of what nobody looks at
        flight = self._of_waiting.pop(waiting, None)
        if flight is not None and flight.task is not None and all(one.answer.done() for one in flight.batch):
            flight.task.cancel()

    def _send(self) -> None:
        """Sends what waits while there is room, and sees to it that calls which hang are noticed."""
        now = self._loop.time()
        while self._queue and len(self._flights) < self._places + self._overdue(now):
            batch, expired = self._queue.take(now, limits=self._limits, pace=self._pace)
            for waiting in expired:
                _fail([waiting], _too_late(waiting.request))
            if batch:
                self._launch(batch, now)
        if self._queue and self._look_again is None:
            self._look_again = self._loop.call_later(self._patience, self._look)

    def _look(self) -> None:
        self._look_again = None
        self._send()

    @property
    def _patience(self) -> float:
        return max(_LEAST_PATIENCE_SECONDS, _PATIENCE * self._usual_seconds)

    def _overdue(self, now: float) -> int:
        """Calls that no longer hold their place. They lie in the order in which they were begun."""
        count, latest = 0, now - self._patience
        for flight in self._flights:
            if flight.started > latest:
                break
            count += 1
        return count

    def _launch(self, batch: list[Waiting], now: float) -> None:
        flight = _Flight(now, batch[0].request, batch)
        self._flights[flight] = None
        sent = perf_counter()
        for waiting in batch:
            self._of_waiting[waiting] = flight
            self._queue_seconds.observe(sent - waiting.since)
        flight.task = self._loop.create_task(self._serve(batch))

        # Not a `finally` in the task: one that is cancelled before its first step never enters it.
        def landed(task: asyncio.Task[None]) -> None:
            for waiting in batch:
                self._of_waiting.pop(waiting, None)
            _fail(batch, _reason(task))
            self._ended(flight)

        flight.task.add_done_callback(landed)

    def _ended(self, flight: _Flight) -> None:
        del self._flights[flight]
        if self._queue:
            self._send()

    async def _serve(self, batch: Sequence[Waiting]) -> None:
        """Answers each of them, by one call if all goes well; halves what fails to find the request at fault.

        Once rows have turned out not to be independent, each is asked alone, at the same time as the others.
        """
        now = self._loop.time()
        for waiting in batch:
            if waiting.deadline <= now:
                _fail([waiting], _too_late(waiting.request))
        batch = [waiting for waiting in batch if not waiting.answer.done()]
        if not batch:
            return
        sent = perf_counter()
        try:
            response = await self._call([waiting.request for waiting in batch])
        except DuetError as error:
            if len(batch) == 1 or not _is_of_one_request(error):
                _fail(batch, error)
                return
            if error.fault is not None and error.fault.counts:
                # Its worker may have died of one of them. Halving would let that one meet a worker at each step.
                for waiting in batch:
                    waiting.request = replace(waiting.request, avoid=error.endpoint)
                await asyncio.gather(*(self._serve([waiting]) for waiting in batch))
                return
            response = None
        if response is not None:
            self._answer(batch, response, sent)
            return
        if not self.joins:
            await asyncio.gather(*(self._serve([waiting]) for waiting in batch))
            return
        middle = len(batch) // 2
        await self._serve(batch[:middle])
        await self._serve(batch[middle:])

    async def _call(self, requests: Sequence[InferRequest]) -> InferResponse | None:
        """The answer to all; None where they cannot be joined, which an answer without their rows shows."""
        started = self._loop.time()
        if len(requests) == 1:
            response = await self._inner.infer(requests[0])
            self._learn(requests[0].rows, self._loop.time() - started, response)
            return response
        if not self.joins:
            return None
        buffer = self._buffers.take(rows.buffer_bytes(requests))
        joined = rows.join(requests, buffer)
        response = await self._inner.infer(joined)
        # After a failure the buffer is not used again: what was given up may still be on its way out of it.
        if not rows.lies_in(response, joined):
            self._buffers.give_back(buffer)
        if self.evidence.refuted:  # by a sample, meanwhile: what came is in doubt
            return None
        if not rows.has_rows(response, joined.rows):
            self._refuted("an answer did not have a row for each row that went in")
            return None
        if self._turns.due(self._loop.time()):
            self._take(requests, response)
        self._learn(joined.rows, self._loop.time() - started, response)
        return response

    def _answer(self, batch: Sequence[Waiting], response: InferResponse, sent: float) -> None:
        total = sum(waiting.rows for waiting in batch)
        self._batch_rows.observe(total)
        start, counted = 0, total
        for waiting in batch:
            outputs = response.outputs if len(batch) == 1 else rows.cut(response.outputs, start, waiting.rows)
            start += waiting.rows
            if waiting.answer.done():
                continue
            timings = {"queue": sent - waiting.since, **response.timings}
            answer = InferResponse(
                response.model, response.variant, response.version, outputs, timings, execution_rows=counted
            )
            waiting.answer.set_result(answer)
            counted = 0

    def _learn(self, count: int, seconds: float, response: InferResponse, *, of_rows: bool = True) -> None:
        """``of_rows``: what it took says something of others' rows. It does not where rows cannot be joined."""
        if count:
            self._usual_seconds += 0.2 * (seconds - self._usual_seconds)
        if count and of_rows:
            size = rows.output_bytes(response)
            self._pace = self._pace.after(rows=count, seconds=seconds, output_bytes=size)

    def _take(self, requests: Sequence[InferRequest], response: InferResponse) -> None:
        """Asks this batch again in the background, request by request."""
        self._turns.begun(self._loop.time())
        sample = Sample.of(requests, response)
        self._sample = self._loop.create_task(self._ask_again(sample))
        self._sample.add_done_callback(self._sampled)

    def _sampled(self, task: asyncio.Task[None]) -> None:
        self._sample = None
        error = None if task.cancelled() else task.exception()
        self._turns.ended(self._loop.time(), answered=not task.cancelled() and error is None)
        if isinstance(error, DuetError | TimeoutError):
            log.info("%s: a batch could not be asked again, which proves nothing: %s", self._name, error or "no answer")
        elif error is not None:
            log.error("%s: a batch could not be asked again", self._name, exc_info=error)

    async def _ask_again(self, sample: Sample) -> None:
        different = await sample.difference(self._ask)
        self._samples.inc()
        self.evidence.samples += 1
        if different is not None:
            self._refuted(f"asked alone, {different}")

    async def _ask(self, request: InferRequest) -> InferResponse:
        deadline = self._loop.time() + _SAMPLE_SECONDS
        async with asyncio.timeout_at(deadline):
            return await self._again.infer(request.due(deadline))

    def _refuted(self, what: str) -> None:
        """From now on requests of this version go alone, those that wait already too."""
        self._differences.inc()
        self.evidence.differences += 1
        if self.evidence.refuted:
            return
        self.evidence.refuted = what
        log.error(
            "%s is no longer batched: %s. Its rows depend on the rows beside them, though %s. It stays so in this "
            "process until another version comes or the gateway is restarted (SIGHUP restarts workers); "
            "%s: dependent turns batching off for good",
            self._name,
            what,
            self.independence.why,
            setting_of(self.known.model),
        )


def _is_of_one_request(error: DuetError) -> bool:
    return isinstance(error, _OF_ONE_REQUEST) or (error.fault is not None and error.fault.by_request)


def _too_late(request: InferRequest) -> DeadlineExceeded:
    return DeadlineExceeded(f"{request.model} did not answer before the request's deadline")


def _fail(batch: Sequence[Waiting], error: Exception) -> None:
    """To each caller a failure of its own: what catches it may write on it."""
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(copy.copy(error) if isinstance(error, DuetError) else error)


def _reason(task: asyncio.Task[None]) -> Exception:
    """Why a task has left callers without an answer."""
    if task.cancelled():
        return Unavailable("the gateway was told to stop at once", retry_after_seconds=1)
    error = task.exception()
    return error if isinstance(error, Exception) else Internal("a batch ended without an answer")
