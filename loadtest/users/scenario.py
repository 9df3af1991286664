"""What a scenario says of its load, and how it ends: by its thresholds, as Locust's exit code."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment

from loadtest.analysis.percentiles import percentile
from loadtest.fronts import FRONTS
from loadtest.recorder import OK, Recorder

FAILED_THRESHOLD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``rate`` gives requests/s at a second and ``most`` its greatest; without it users wait for their answers.

    ``stages`` are the rows of a request in each stage, all equally long. The limits are defaults of options.
    """

    name: str
    seconds: float
    p99_ms: float
    errors: float = 0.001
    rate: Callable[[float, float, float], float] | None = None
    most: float = 1.0
    stages: Sequence[int] = (1,)
    fronts: Sequence[str] = ("v2_rest_json",)
    check: Callable[[Environment], str] | None = None
    steps: Sequence[str] = field(default_factory=tuple)


class Run:
    """The scenario of this process, and what it has recorded, by front."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.recorders: dict[str, Recorder] = {}
        self.latencies: list[float] = []
        self.failed = 0
        self.dropped = 0
        self.notes: dict[str, float] = {}
        self.begun = 0.0

    def record(self, front: str, intended: int, sent: int, ended: int, status: int, size: int) -> None:
        self.recorders.setdefault(front, Recorder()).add(intended, sent, ended, status, size)
        self.latencies.append((ended - intended) / 1e6)
        self.failed += status != OK


current: Run | None = None


def install(scenario: Scenario, module: dict[str, Any]) -> None:
    """Makes the file that calls it a locustfile of this scenario: its users, options and thresholds.

    Locust finds users among a file's names. ``--front`` chooses others than the scenario's own.
    """
    global current
    from loadtest.users import USERS

    current = run = Run(scenario)
    module.update({user.__name__: user for user in USERS if user.front in scenario.fronts})

    @events.init_command_line_parser.add_listener
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--model", default="convnet", help="a documented model")
        parser.add_argument("--variant", default="tensorflow", choices=["tensorflow", "pytorch"])
        parser.add_argument("--front", default="", choices=["", *FRONTS], help="instead of the scenario's own")
        parser.add_argument("--grpc", default="", metavar="HOST:PORT", help="the port after --host's, if not given")
        parser.add_argument("--rate", type=float, default=50.0, help="requests/s, where the scenario has a rate")
        parser.add_argument("--seconds", type=float, default=scenario.seconds, help="how long it takes")
        parser.add_argument("--batch", type=int, default=0, metavar="ROWS", help="of each request")
        parser.add_argument("--max-p99-ms", type=float, default=scenario.p99_ms, help="else exit code 1")
        parser.add_argument(
            "--max-errors", type=float, default=scenario.errors, metavar="SHARE", help="else exit code 1"
        )
        parser.add_argument("--timeout-seconds", type=float, default=10.0)
        parser.add_argument("--admin", default="", metavar="HOST:PORT", help="the gateway's metrics, for soak")
        parser.add_argument("--samples", default="", metavar="DIR", help="keep every request's times there (.npy)")

    @events.init.add_listener
    def choose(environment: Environment, **_: Any) -> None:
        options = environment.parsed_options
        if options is None:
            return
        if options.front:
            environment.user_classes = [user for user in USERS if user.front == options.front]
        if not environment.host:
            environment.host = "http://localhost:8000"

    @events.test_start.add_listener
    def begin(environment: Environment, **_: Any) -> None:
        run.begun = time.monotonic()

    @events.quitting.add_listener
    def judge(environment: Environment, **_: Any) -> None:
        finish(run, environment)


def finish(run: Run, environment: Environment) -> None:
    """Writes the samples, and sets Locust's exit code by the thresholds; a line says why."""
    options = environment.parsed_options
    if options.samples:
        folder = Path(options.samples)
        folder.mkdir(parents=True, exist_ok=True)
        for front, recorder in run.recorders.items():
            recorder.write(folder / f"{run.scenario.name}-{front}-{os.getpid()}.npy")
    if getattr(environment.parsed_options, "worker", False):
        return  # the master judges, by what its workers report to it
    problems = problems_of(run, environment)
    for problem in problems:
        print(f"{run.scenario.name}: {problem}", file=sys.stderr)
    environment.process_exit_code = FAILED_THRESHOLD if problems else 0
    if run.notes:
        print(json.dumps(run.notes))


def problems_of(run: Run, environment: Environment) -> list[str]:
    options, total = environment.parsed_options, environment.stats.total
    requests, failed = len(run.latencies), run.failed
    p99 = percentile(_array(run.latencies), 99) if requests else 0.0
    if not requests and total.num_requests:  # a master: Locust's own figures, whole milliseconds
        requests, failed = total.num_requests, total.num_failures
        p99 = float(total.get_response_time_percentile(0.99) or 0)
    found = []
    if not requests:
        return ["not one request was answered"]
    if p99 > options.max_p99_ms:
        found.append(f"p99 of {requests} requests is {p99:.1f} ms; at most {options.max_p99_ms:g} ms are allowed")
    if failed > options.max_errors * requests:
        found.append(f"{failed} of {requests} requests failed; at most {options.max_errors:.2%} may")
    if run.dropped:
        found.append(f"{run.dropped} requests had no place among those in flight: more than one process is needed")
    if run.scenario.check is not None and (problem := run.scenario.check(environment)):
        found.append(problem)
    print(f"{run.scenario.name}: {requests} requests, {failed} failed, p99 {p99:.2f} ms")
    return found


def _array(values: list[float]) -> Any:
    import numpy as np

    return np.array(values)
