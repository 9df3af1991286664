"""Runs one block: starts its generators, lets them begin together, watches the machine, gathers the facts."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from loadtest.analysis.arrivals import SECOND
from loadtest.analysis.load import backlog_grows, in_flight_at_sends
from loadtest.analysis.percentiles import percentile
from loadtest.analysis.validity import BlockFacts
from loadtest.failures import LoadFailed
from loadtest.fronts import Answer, Call, Front
from loadtest.generator.job import Job
from loadtest.recorder import DROPPED, Block
from loadtest.stack import Address

WARM_SHARE = 0.1
"""Of each block, from its start, that is thrown away."""
GRACE_SECONDS = 1.0
START_AHEAD_SECONDS = 0.05
TAIL_SECONDS = 30.0
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Leg:
    """What a block loads: one variant, through the gateway or directly. ``name`` is unique in a cell.

    ``title`` is unique in a run: the direct legs, which belong to all fronts, bear the name of the server's own wire.
    """

    name: str
    view: str
    variant: str
    front: Front
    address: Address
    calls: tuple[Call, ...]

    @property
    def title(self) -> str:
        return f"{self.front.name} {self.name}"


@dataclass(frozen=True, slots=True)
class Finished:
    """A block with its samples, the answers that were kept, and what the gateway said of their time."""

    facts: BlockFacts
    block: Block
    answers: tuple[tuple[int, Answer], ...]
    timings: tuple[str, ...]
    texts: dict[str, int]
    priority: str
    at_seconds: float


def job_of(leg: Leg, *, bodies: Path, out: Path, seed: int, cell: str, pair: int, seconds: float) -> Job:
    return Job(
        transport=leg.front.transport,
        host=leg.address.host,
        port=leg.address.port,
        target=leg.calls[0].target,
        headers=dict(leg.calls[0].headers) if leg.front.transport == "grpc" else {},
        per_body_headers=[dict(call.headers) for call in leg.calls],
        bodies=str(bodies),
        out=str(out),
        seed=seed,
        cell=cell,
        pair=pair,
        seconds=seconds,
    )


def run(
    job: Job,
    *,
    name: str,
    workers: int,
    settle_seconds: float,
    family: Callable[[], Sequence[psutil.Process]] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Finished:
    """``job`` is of all workers together; ``family`` the processes that belong to what is loaded. Raises LoadFailed."""
    jobs = split(job, workers)
    files = []
    for one in jobs:
        file = Path(one.out).with_suffix(".job.json")
        one.write(file)
        files.append(file)
    begun = time.monotonic()
    processes = [_start(file) for file in files]
    try:
        for process in processes:
            _await_ready(process)
        time.sleep(max(0.0, settle_seconds - (time.monotonic() - begun)))
        watch = Watch(family) if family is not None else None
        at = time.time()
        start = time.perf_counter_ns() + round(START_AHEAD_SECONDS * SECOND)
        for process in processes:
            _tell(process, f"{start}\n")
        limit = time.monotonic() + job.seconds + job.timeout_seconds + TAIL_SECONDS
        while any(process.poll() is None for process in processes):
            time.sleep(POLL_SECONDS)
            tick()
            if time.monotonic() > limit:
                raise LoadFailed(f"{name}: the generator does not end; is the machine out of memory?")
        summaries = [_summary(process, name) for process in processes]
        foreign = watch.foreign_cores() if watch is not None else None
    finally:
        for process, file in zip(processes, files, strict=True):
            _end(process)
            file.unlink(missing_ok=True)
    return gather(jobs, name, summaries, foreign=foreign, at=at)


def split(job: Job, workers: int) -> list[Job]:
    """Each worker a W-th of the rate, and a file of its own."""
    out = Path(job.out)
    return [
        replace(
            job,
            rate=job.rate / workers,
            callers=-(-job.callers // workers),
            worker=worker,
            out=str(out.with_name(f"{out.stem}-{worker}.npy")),
        )
        for worker in range(workers)
    ]


def gather(
    jobs: Sequence[Job], name: str, summaries: Sequence[dict[str, Any]], *, foreign: float | None, at: float
) -> Finished:
    whole = Block.read([Path(one.out) for one in jobs])
    if not len(whole):
        raise LoadFailed(f"{name}: not one request was due in {jobs[0].seconds:g} s; give a higher --rate")
    answers, timings = _answers(jobs)
    facts = facts_of(whole, jobs[0], name, summaries, foreign)
    texts: dict[str, int] = {}
    for summary in summaries:
        for text, count in summary["texts"].items():
            texts[text] = texts.get(text, 0) + count
    return Finished(facts, kept(whole, jobs[0]), answers, timings, texts, summaries[0]["priority"], at)


def kept(block: Block, job: Job) -> Block:
    """What counts: without the block's beginning, and without requests that never went out."""
    return block.after(WARM_SHARE * job.seconds).without_dropped()


def facts_of(
    whole: Block, job: Job, name: str, summaries: Sequence[dict[str, Any]], foreign: float | None
) -> BlockFacts:
    block = kept(whole, job)
    if not len(block):
        raise LoadFailed(f"{name}: every request was dropped; the rate is far beyond what is loaded")
    cpu = [value for summary in summaries for value in summary["cpu"]]
    return BlockFacts(
        name=name,
        requests=len(block),
        failed=int(block.failed.sum()),
        dropped=int((whole.status == DROPPED).sum()),
        offered_per_second=len(whole) / job.seconds,
        achieved_per_second=answered_in_time(whole, job.seconds) / job.seconds,
        lag_p99_ms=percentile(block.lags_ms, 99),
        p50_ms=percentile(block.latencies_ms(job.timeout_seconds), 50),
        generator_cpu=max(cpu) if cpu else None,
        foreign_cpu=foreign,
        backlog_grows=backlog_grows(block.intended / SECOND, in_flight_at_sends(block.intended, block.ended)),
    )


def answered_in_time(whole: Block, seconds: float) -> int:
    """Requests that were answered rightly by a second after the block's end: a server that lags behind has fewer."""
    end = whole.intended[0] + round((seconds + GRACE_SECONDS) * SECOND)
    return int((~whole.failed & (whole.ended <= end)).sum())


def save(finished: Finished, path: Path) -> None:
    """The block's facts beside its samples: written last, it marks the block as done. Raises OSError."""
    content = {
        "facts": asdict(finished.facts),
        "texts": finished.texts,
        "priority": finished.priority,
        "at": finished.at_seconds,
    }
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content))
    beside.replace(path)


def restore(path: Path, jobs: Sequence[Job]) -> Finished | None:
    """A block that an earlier, interrupted run has finished; None where there is none, or not all of it."""
    try:
        stored = json.loads(path.read_text())
        whole = Block.read([Path(one.out) for one in jobs])
        answers, timings = _answers(jobs)
    except (OSError, ValueError, KeyError):
        return None
    facts = BlockFacts(**stored["facts"])
    return Finished(facts, kept(whole, jobs[0]), answers, timings, stored["texts"], stored["priority"], stored["at"])


def _answers(jobs: Sequence[Job]) -> tuple[tuple[tuple[int, Answer], ...], tuple[str, ...]]:
    entries = [entry for one in jobs for entry in json.loads(Path(one.out).with_suffix(".answers.json").read_text())]
    answers = tuple(
        (entry["payload"], Answer(base64.b64decode(entry["body"]), entry["header_length"])) for entry in entries
    )
    return answers, tuple(entry["timing"] for entry in entries if entry["timing"])


def _start(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "loadtest.generator", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None  # noqa: S101 - piped above
    if not process.stdout.readline():
        raise LoadFailed(_last_words(process))


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None  # noqa: S101 - piped above
    with suppress(BrokenPipeError):
        process.stdin.write(line)
        process.stdin.close()


def _summary(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    assert process.stdout is not None  # noqa: S101 - piped above
    text = process.stdout.read()
    if process.returncode:
        raise LoadFailed(f"{name}: {_last_words(process)}")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def _last_words(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None  # noqa: S101 - piped above
    lines = process.stderr.read().strip().splitlines()
    return f"the generator ended with {process.wait()}: {lines[-1] if lines else 'no word'}"


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()


class Watch:
    """How much of the machine others take meanwhile: what is busy or stolen, less what is ours."""

    def __init__(self, family: Callable[[], Sequence[psutil.Process]]) -> None:
        self._family = {process.pid: process for process in family()}
        self._begun = time.monotonic()
        self._busy = _busy_seconds()
        self._own = self._own_seconds()

    def foreign_cores(self) -> float:
        seconds = time.monotonic() - self._begun
        return max(0.0, (_busy_seconds() - self._busy) - (self._own_seconds() - self._own)) / seconds

    def _own_seconds(self) -> float:
        times = psutil.Process().cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for process in self._family.values():
            with suppress(psutil.Error):
                spent = process.cpu_times()
                total += spent.user + spent.system
        return float(total)


def _busy_seconds() -> float:
    """Interrupts are left out: they are work on the load's own network, and belong to nobody."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0))
