"""Legs measured in turns, and what their ratio says."""

from __future__ import annotations

import http.client
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from loadtest.bench.checks import READERS
from loadtest.bench.generator import Generator
from loadtest.bench.jobs import Job, Result
from loadtest.bench.payloads import Payload


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: float
    warm_seconds: float


@dataclass(frozen=True, slots=True)
class Target:
    """``least`` or ``most`` bounds a row's number."""

    least: float | None = None
    most: float | None = None

    def met(self, number: float) -> bool:
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``numbers`` are of the rounds, their median is the row's. ``detail`` is for reading, ``raw`` for keeping."""

    numbers: Sequence[float]
    detail: str
    unit: str = "x"
    faults: Sequence[str] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> float:
        return statistics.median(self.numbers)


#: What is compared of a result.
Measure = Callable[[Result], float]


def per_second(result: Result) -> float:
    return result.per_second


def p50(result: Result) -> float:
    return result.p50_us


def compare(
    generator: Generator,
    ours: Job,
    others: Mapping[str, Job],
    options: Options,
    *,
    measure: Measure = per_second,
    unit: str = "/s",
    combine: Callable[[Result, Result], float] | None = None,
    floors: Mapping[str, Job] | None = None,
) -> Outcome:
    """Ours over the best of the others: the highest rate, or the lowest p50. In each round every leg has one turn.

    ``floors`` are measured and told, and decide nothing.
    """
    legs = {"gateway": ours, **others, **(floors or {})}
    for job in legs.values():
        generator.run(replace(job, seconds=options.warm_seconds))
    results: dict[str, list[Result]] = {name: [] for name in legs}
    for _ in range(options.rounds):
        for name, job in legs.items():
            results[name].append(generator.run(replace(job, seconds=options.seconds)))
    faults = [f"{name}: {r.fault}" for name, found in results.items() for r in found if r.fault]
    if any(not measure(r) for found in results.values() for r in found):
        return Outcome([float("nan")], "no answers", faults=faults)
    medians = {name: statistics.median(map(measure, found)) for name, found in results.items()}
    best = (min if measure is p50 else max)(others, key=lambda name: medians[name])
    ratio = combine or (lambda mine, other: measure(mine) / measure(other))
    numbers = [ratio(mine, other) for mine, other in zip(results["gateway"], results[best], strict=True)]
    detail = ", ".join(f"{name} {value:,.0f}{unit}" for name, value in medians.items())
    raw = {name: [_as_dict(result) for result in found] for name, found in results.items()}
    return Outcome(numbers, detail, faults=faults, raw=raw)


def _as_dict(result: Result) -> dict[str, Any]:
    return {
        "per_second": round(result.per_second, 1),
        "p50_us": round(result.p50_us, 1),
        "p99_us": round(result.p99_us, 1),
        "requests": result.requests,
        "checked": result.checked,
        "generator_cpu_seconds": round(result.cpu_seconds, 3),
    }


def with_answers(payload: Payload, job: Job, *, count: int) -> Payload:
    """The payload with the answers that this server gives to each of its requests, one after the other.

    ``count`` values are in each. Raises OSError, or RuntimeError where it refuses one.
    """
    connection = http.client.HTTPConnection(job.host, job.port, timeout=30)
    headers = dict(line.split(": ", 1) for line in job.headers.split("\r\n") if line)
    expected = []
    for body in job.bodies:
        connection.request("POST", job.path, body, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"{job.path} answers {response.status}: {content[:400]!r}")
        expected.append(np.ascontiguousarray(READERS[job.answer](content, count), np.float32).tobytes())
    connection.close()
    return replace(payload, expected=tuple(expected))
