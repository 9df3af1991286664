"""The two ways to send: on a schedule that no answer can hold up, and by callers that wait for their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from time import perf_counter_ns
from typing import Protocol

from loadtest.analysis.arrivals import SECOND
from loadtest.generator.http1 import Done, Reply
from loadtest.recorder import DROPPED, FAILED, TIMED_OUT, Recorder

SWEEP_SECONDS = 0.02
MOST_SAMPLES = 400
MOST_TEXTS = 5
TIMED_OUT_STATUSES = ("DEADLINE_EXCEEDED",)


class Target(Protocol):
    def send(self, payload: int, done: Done) -> Callable[[], None]: ...


@dataclass(slots=True)
class Sample:
    """An answer that is kept: what it was asked, and what came."""

    payload: int
    body: bytes
    header_length: int | None
    timing: str


@dataclass(slots=True)
class Log:
    """What a block leaves behind. CPU is in cores, a value a second."""

    recorder: Recorder = field(default_factory=Recorder)
    dropped: int = 0
    cpu: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)


class Flight:
    """Requests under way: each ends once, by its answer or at its time-out."""

    def __init__(self, target: Target, log: Log, *, timeout_seconds: float, sampled: float, seed: Random) -> None:
        self._target = target
        self._log = log
        self._timeout_ns = round(timeout_seconds * SECOND)
        self._sampled = sampled
        self._chance = seed
        self._open: dict[int, tuple[int, int, int, Callable[[], None]]] = {}
        self._number = 0
        self.empty = asyncio.Event()
        self.empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def send(self, intended: int, payload: int, ended: Callable[[], None] | None = None) -> None:
        self._number += 1
        number = self._number
        sent = perf_counter_ns()

        def done(reply: Reply) -> None:
            if self._open.pop(number, None) is None:
                return
            self._finish(intended, sent, payload, reply)
            if ended is not None:
                ended()

        self.empty.clear()
        self._open[number] = (intended, sent, payload, lambda: None)
        give_up = self._target.send(payload, done)
        if number in self._open:
            self._open[number] = (intended, sent, payload, give_up)

    def sweep(self) -> list[int]:
        """Ends what is over its time, which counts from the intended sending. Returns the payloads."""
        now = perf_counter_ns()
        late = [number for number, entry in self._open.items() if now - entry[0] >= self._timeout_ns]
        payloads = []
        for number in late:
            intended, sent, payload, give_up = self._open.pop(number)
            give_up()
            self._finish(
                intended, sent, payload, Reply(TIMED_OUT, intended + self._timeout_ns, text="no answer in time")
            )
            payloads.append(payload)
        return payloads

    def _finish(self, intended: int, sent: int, payload: int, reply: Reply) -> None:
        status = reply.status
        if status == FAILED and reply.text.startswith(TIMED_OUT_STATUSES):
            status = TIMED_OUT
        self._log.recorder.add(intended, sent, reply.ended, status, len(reply.body), payload)
        if reply.text:
            texts = self._log.texts
            if reply.text in texts or len(texts) < MOST_TEXTS:
                texts[reply.text] = texts.get(reply.text, 0) + 1
        elif len(self._log.samples) < MOST_SAMPLES and self._chance.random() < self._sampled:
            self._log.samples.append(Sample(payload, reply.body, reply.header_length, reply.timing))
        if not self._open:
            self.empty.set()


async def open_loop(
    flight: Flight, log: Log, *, start: int, arrivals: list[int], payloads: list[int], most_in_flight: int
) -> None:
    """Sends each request at its time, whatever has come of those before. One without a place in flight is dropped."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    place = 0

    def wake() -> None:
        nonlocal place
        while place < len(arrivals):
            intended = start + arrivals[place]
            wait = intended - perf_counter_ns()
            if wait > 0:
                loop.call_later(wait / SECOND, wake)
                return
            if len(flight) >= most_in_flight:
                log.dropped += 1
                log.recorder.add(intended, intended, intended, DROPPED, 0, payloads[place])
            else:
                flight.send(intended, payloads[place])
            place += 1
        over.set_result(None)

    wake()
    await over


async def closed_loop(flight: Flight, *, start: int, callers: int, seconds: float, payloads: Callable[[], int]) -> None:
    """Each caller sends when its last answer has come: a stall of the server stops the load, and is hardly seen."""
    end = start + round(seconds * SECOND)
    await asyncio.sleep(max(0, start - perf_counter_ns()) / SECOND)
    stopped = asyncio.get_running_loop().create_future()
    active = callers

    def call() -> None:
        nonlocal active
        now = perf_counter_ns()
        if now < end:
            flight.send(now, payloads(), lambda: asyncio.get_running_loop().call_soon(call))
            return
        active -= 1
        if not active and not stopped.done():
            stopped.set_result(None)

    for _ in range(callers):
        call()
    while not stopped.done():
        await asyncio.wait([stopped], timeout=SWEEP_SECONDS)
        for _ in flight.sweep():
            call()


async def watch_cpu(log: Log, seconds: float = 1.0) -> None:
    """Writes down how much of a core this process takes, until it is cancelled."""
    before, used = time.perf_counter(), time.process_time()
    while True:
        await asyncio.sleep(seconds)
        now, spent = time.perf_counter(), time.process_time()
        log.cpu.append((spent - used) / (now - before))
        before, used = now, spent


async def sweep_for_ever(flight: Flight) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        flight.sweep()
