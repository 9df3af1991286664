"""The load generator, a process of its own: jobs come pickled on standard input, results go out on standard output.

Closed loop: a connection's next request follows the last answer. That measures what a server can do, not what open
traffic would feel of it; `loadtest compare` is for the latter.
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from array import array
from collections.abc import Callable
from time import perf_counter_ns, process_time
from typing import IO, cast

import numpy as np
import uvloop

from gateway.workers.files import allow_open_files
from loadtest.bench import checks, http1, http2
from loadtest.bench.http1 import Sender
from loadtest.bench.jobs import Job, Result

_SETTLE_SECONDS = 2


class Run:
    """One job. Latencies count from the write of a request to the last byte of its answer."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._checks = [
            checks.checker(answer=job.answer, expected=expected, tolerance=job.tolerance) for expected in job.expected
        ]
        self._make = self._protocol()
        self._latencies = array("q")
        self._sent: dict[int, int] = {}
        self._next = 0
        self._measuring = self._stopping = False
        self._errors = self._wrong = self._checked = 0
        self._failure = ""

    async def __call__(self) -> Result:
        connections = await self._connect()
        for connection in connections:
            for _ in range(self._job.streams):
                self._send(connection)
        await asyncio.sleep(self._job.warm_seconds)
        self._measuring, begun, cpu = True, perf_counter_ns(), process_time()
        await asyncio.sleep(self._job.seconds)
        seconds, cpu = (perf_counter_ns() - begun) / 1e9, process_time() - cpu
        self._stopping = True
        await self._settle()
        for connection in connections:
            connection.close()
        await asyncio.sleep(0)
        p50, p99 = np.percentile(self._latencies, [50, 99]) / 1e3 if self._latencies else (0.0, 0.0)
        counts = self._errors, self._wrong, self._checked
        return Result(len(self._latencies), seconds, float(p50), float(p99), *counts, self._failure, cpu)

    async def _settle(self) -> None:
        """Waits for the answers that are due: what a server still works on would weigh on the next job."""
        end = perf_counter_ns() + _SETTLE_SECONDS * 1e9
        while self._sent and not self._errors and perf_counter_ns() < end:  # noqa: ASYNC110 - the hot path sets no event
            await asyncio.sleep(0.005)

    async def _connect(self) -> list[Sender]:
        job, loop = self._job, asyncio.get_running_loop()
        made: list[Sender] = []
        for _ in range(job.connections):
            _, connection = await loop.create_connection(self._make, job.host, job.port)
            made.append(connection)
        return made

    def _protocol(self) -> Callable[[], http1.Connection | http2.Connection]:
        if self._job.wire == "http":
            requests = http1.requests(self._job)
            return lambda: http1.Connection(requests, self._answered, self._failed)
        headers, messages = http2.header_block(self._job), http2.messages(self._job)
        return lambda: http2.Connection(headers, messages, self._answered, self._failed)

    def _send(self, connection: Sender) -> None:
        number = self._next
        self._next += 1
        self._sent[number] = perf_counter_ns()
        connection.send(number)

    def _answered(self, connection: Sender, number: int, body: bytes) -> None:
        nanoseconds = perf_counter_ns() - self._sent.pop(number)
        if self._stopping:
            return
        if self._measuring:
            self._latencies.append(nanoseconds)
        if number % self._job.check_every == 0 or not body:
            self._check(number, body)
        self._send(connection)

    def _check(self, number: int, body: bytes) -> None:
        self._checked += 1
        if not self._checks[number % len(self._checks)](body):
            self._wrong += 1
            self._failure = self._failure or f"wrong answer {body[:200]!r}"

    def _failed(self, text: str) -> None:
        if not self._stopping:
            self._errors += 1
            self._failure = self._failure or text


class Generator:
    """A generator process, seen from the benchmark. Leave the ``with`` block to end it."""

    def __enter__(self) -> Generator:
        command = [sys.executable, "-m", "loadtest.bench.generator"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.close()
        self._results.close()
        self._process.wait(10)

    @property
    def _jobs(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdin)

    @property
    def _results(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdout)

    def run(self, job: Job) -> Result:
        pickle.dump(job, self._jobs)
        self._jobs.flush()
        result: Result = pickle.load(self._results)  # noqa: S301 - our own child's pipe
        return result


def main(jobs: IO[bytes], results: IO[bytes]) -> None:
    allow_open_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while True:
            try:
                job = pickle.load(jobs)  # noqa: S301 - the benchmark's own pipe
            except EOFError:
                return
            try:
                result = runner.run(Run(job)())
            except OSError as error:
                result = Result(0, job.seconds, 0.0, 0.0, 1, 0, 0, str(error), 0.0)
            pickle.dump(result, results)
            results.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
