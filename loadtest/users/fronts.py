"""A User class a front. What a scenario asks of them is in `loadtest.users.scenario`."""

from __future__ import annotations

import time
from time import perf_counter_ns
from typing import Any

import gevent
from gevent.pool import Pool
from locust import User, constant, task

from loadtest.analysis.arrivals import SECOND, generator, varying
from loadtest.fronts import FRONTS, Call, Signature, pinned
from loadtest.generator.job import MOST_IN_FLIGHT
from loadtest.payloads import example_inputs
from loadtest.recorder import DROPPED, FAILED, OK
from loadtest.users import scenario as scenarios
from loadtest.users.clients import connect
from loadtest.wire import CallFailed
from models.catalog import CATALOG

SPIN_SECONDS = 0.001
"""gevent's timers are coarse: the last millisecond is waited for in steps of nothing."""


class FrontUser(User):
    """One caller, or in a scenario with a rate the one who sends on time, whatever comes back."""

    abstract = True
    wait_time = constant(0)
    front = ""

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._front = FRONTS[self.front]
        self._client = connect(
            self._front.transport, self.host or self.environment.host or "", options.grpc, options.timeout_seconds
        )
        self._run = scenarios.current or scenarios.Run(scenarios.Scenario(name="none", seconds=0, p99_ms=1e9))
        self._model, self._variant, self._batch = options.model, options.variant, options.batch
        self._calls = {rows: self._call(rows) for rows in {*self._run.scenario.stages, options.batch or 1}}

    def on_stop(self) -> None:
        self._client.close()

    def _call(self, rows: int) -> Call:
        spec = CATALOG[self._model]
        signature = Signature(self._model, max(spec.versions), spec.outputs)
        return pinned(self._front.encode(signature, example_inputs(self._model, rows)), self._variant)

    @task
    def load(self) -> None:
        if self._run.scenario.rate is not None:
            self._on_schedule()
            return
        gone = time.monotonic() - self._run.begun
        if gone >= self.environment.parsed_options.seconds:
            self._over()
            return
        self._send(perf_counter_ns(), self._rows(gone))

    def _rows(self, gone: float) -> int:
        stages = self._run.scenario.stages
        stage = int(gone / self.environment.parsed_options.seconds * len(stages))
        return self._batch or stages[min(stage, len(stages) - 1)]

    def _on_schedule(self) -> None:
        """Open loop: each request at its Poisson time; one without a place in flight counts as dropped."""
        options, scenario = self.environment.parsed_options, self._run.scenario
        runner = self.environment.runner
        share = 1 / max(1, runner.target_user_count if runner is not None else 1)
        rate, top = options.rate * share, scenario.most * options.rate * share
        chance = generator(0, self.front, 0, id(self) % 1000)
        assert scenario.rate is not None  # noqa: S101 - asked above
        shape = scenario.rate
        arrivals = varying(chance, lambda second: shape(second, rate, options.seconds), top, options.seconds)
        pool = Pool(MOST_IN_FLIGHT)
        start = perf_counter_ns()
        for arrival in arrivals.tolist():
            intended = start + arrival
            while (left := (intended - perf_counter_ns()) / SECOND) > 0:
                gevent.sleep(max(0.0, left - SPIN_SECONDS))
            if pool.full():
                self._run.dropped += 1
                self._run.record(self.front, intended, intended, intended, DROPPED, 0)
                continue
            pool.spawn(self._send, intended, self._batch or 1)
        pool.join(timeout=options.timeout_seconds)
        self._over()

    def _over(self) -> None:
        if self.environment.runner is not None:
            gevent.spawn(self.environment.runner.quit)
        gevent.sleep(60)

    def _send(self, intended: int, rows: int) -> None:
        call = self._calls[rows]
        sent = perf_counter_ns()
        exception: Exception | None = None
        size = 0
        try:
            size = len(self._client.send(call).body)
        except (CallFailed, OSError) as error:
            exception = error
        ended = perf_counter_ns()
        if exception is not None:
            ended = max(ended, intended + round(self.environment.parsed_options.timeout_seconds * SECOND))
        self._run.record(self.front, intended, sent, ended, OK if exception is None else FAILED, size)
        self._tell(rows, ended - intended, size, exception)

    def _tell(self, rows: int, nanoseconds: int, size: int, exception: Exception | None) -> None:
        name = f"{self._model}@{self._variant}" + (f", {rows} rows" if len(self._calls) > 1 else "")
        meta: dict[str, Any] = {"request_type": self.front, "name": name, "response_time": nanoseconds / 1e6}
        self.environment.events.request.fire(
            **meta, response_length=size, exception=exception, context={}, response=None, start_time=time.time()
        )


class V2RestJson(FrontUser):
    front = "v2_rest_json"


class V2RestBinary(FrontUser):
    front = "v2_rest_binary"


class V2Grpc(FrontUser):
    front = "v2_grpc"


class TFServingRest(FrontUser):
    front = "tfserving_rest"


class TFServingGrpc(FrontUser):
    front = "tfserving_grpc"


class TorchServeRest(FrontUser):
    front = "torchserve_rest"


class TorchServeGrpc(FrontUser):
    front = "torchserve_grpc"
