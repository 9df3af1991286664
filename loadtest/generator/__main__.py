"""Makes the load of blocks, one after the other: ``python -m loadtest.generator JOB.json ...``.

For each it prints `READY` once its connections are open, waits for a line with the time to start at (of
``perf_counter_ns``; an empty one means at once), and then prints a line of JSON about it.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import selectors
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from time import perf_counter_ns

from loadtest.analysis.arrivals import generator
from loadtest.generator.grpc_calls import GrpcTarget
from loadtest.generator.http1 import HttpTarget, message
from loadtest.generator.job import Job
from loadtest.generator.loops import Flight, Log, closed_loop, open_loop, sweep_for_ever, watch_cpu

READY = "ready"
PRIORITY, NICENESS = 1, -10
CLOSED_LOOP_PAYLOADS = 4096
CANNOT_CONNECT, CANNOT_WRITE = 2, 5


def main() -> int:
    priority = go_first()
    for argument in sys.argv[1:]:
        code = one_block(Job.read(Path(argument)), priority)
        if code:
            return code
    return 0


def one_block(job: Job, priority: str) -> int:
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    # select() waits with microseconds; epoll rounds up to whole milliseconds, which would be the generator's own lag.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        log = loop.run_until_complete(run(job))
    except OSError as error:
        print(f"cannot reach {job.host}:{job.port}: {error.strerror or error}", file=sys.stderr)
        return CANNOT_CONNECT
    finally:
        gc.enable()
        loop.close()
    try:
        write(job, log, priority)
    except OSError as error:
        print(f"cannot write {job.out}: {error.strerror or error}", file=sys.stderr)
        return CANNOT_WRITE
    return 0


def go_first() -> str:
    """Takes the processor before the servers do, as a machine of its own would; says how far that was allowed.

    It takes it for microseconds at a time, and a run in which it takes more than 80 % of a core is invalid.
    """
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        return "real time"
    with suppress(OSError):
        os.nice(NICENESS)
        return f"nice {NICENESS}"
    return "as the servers"


async def run(job: Job) -> Log:
    """Raises OSError where the target cannot be reached."""
    bodies = job.read_bodies()
    target = make_target(job, bodies)
    log = Log()
    chance = generator(job.seed, f"{job.cell}/samples", job.pair, job.worker)
    flight = Flight(target, log, timeout_seconds=job.timeout_seconds, sampled=job.sampled, seed=chance)
    await target.connect(min(job.connections, job.callers or job.connections))
    print(READY, flush=True)
    start = int(sys.stdin.readline().strip() or perf_counter_ns())
    if job.callers:
        load = closed_loop(
            flight, start=start, callers=job.callers, seconds=job.seconds, payloads=next_payload(job, len(bodies))
        )
    else:
        arrivals = job.arrivals().tolist()
        payloads = job.payloads(len(arrivals), len(bodies))
        load = open_loop(
            flight, log, start=start, arrivals=arrivals, payloads=payloads, most_in_flight=job.most_in_flight
        )
    beside = [asyncio.create_task(watch_cpu(log)), asyncio.create_task(sweep_for_ever(flight))]
    await load
    await flight.empty.wait()
    for task in beside:
        task.cancel()
    target.close()
    if isinstance(target, GrpcTarget):
        await target.aclose()
    return log


def make_target(job: Job, bodies: list[bytes]) -> HttpTarget | GrpcTarget:
    if job.transport == "grpc":
        return GrpcTarget(job.host, job.port, job.target, job.headers, bodies, timeout_seconds=job.timeout_seconds)
    own = job.per_body_headers or [{}] * len(bodies)
    messages = [
        message(job.host, job.port, job.target, {**job.headers, **headers}, body)
        for headers, body in zip(own, bodies, strict=True)
    ]
    return HttpTarget(job.host, job.port, messages)


def next_payload(job: Job, bodies: int) -> Callable[[], int]:
    return cycle(job.payloads(CLOSED_LOOP_PAYLOADS, bodies)).__next__


def write(job: Job, log: Log, priority: str) -> None:
    """The samples' file, and beside it the answers that were kept. Raises OSError."""
    out = Path(job.out)
    kept = [{**asdict(one), "body": base64.b64encode(one.body).decode()} for one in log.samples]
    out.with_suffix(".answers.json").write_text(json.dumps(kept))
    log.recorder.write(out)
    print(json.dumps({"dropped": log.dropped, "cpu": log.cpu, "texts": log.texts, "priority": priority}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
