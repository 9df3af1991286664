"""The cold-start scenario: asks until there is an answer, then goes on until the answers are steady."""

from __future__ import annotations

from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Any

import gevent
from locust import task

from loadtest.analysis.validity import is_steady
from loadtest.recorder import OK
from loadtest.users import scenario as scenarios
from loadtest.users.fronts import V2RestJson
from loadtest.users.scenario import Scenario, install
from loadtest.wire import CallFailed

POLL_SECONDS = 0.05


class ColdStart(V2RestJson):
    """What fails before the first answer is waiting, and no error."""

    def on_start(self) -> None:
        super().on_start()
        self._begun = perf_counter()
        self._answered = 0.0
        self._windows: list[float] = []
        self._window: list[float] = []
        self._window_begun = 0.0

    @task
    def load(self) -> None:
        now = perf_counter()
        if now - self._begun > self.environment.parsed_options.seconds or is_steady(self._windows):
            self._over()
            return
        begun = perf_counter_ns()
        try:
            size = len(self._client.send(self._calls[self._batch or 1]).body)
        except (CallFailed, OSError):
            gevent.sleep(POLL_SECONDS)
            return
        ended = perf_counter_ns()
        self._run.record(self.front, begun, begun, ended, OK, size)
        self._tell(1, ended - begun, size, None)
        self._note((ended - begun) / 1e6)

    def _note(self, milliseconds: float) -> None:
        now, notes = perf_counter(), self._run.notes
        if not self._answered:
            self._answered = self._window_begun = now
            notes |= {"first_answer_seconds": round(now - self._begun, 3), "first_latency_ms": round(milliseconds, 3)}
        self._window.append(milliseconds)
        if now - self._window_begun >= 1:
            self._windows.append(median(self._window))
            self._window, self._window_begun = [], now
            if is_steady(self._windows):
                notes |= {"steady_seconds": round(now - self._begun, 3), "warm_p50_ms": round(self._windows[-1], 3)}


def install_cold_start(module: dict[str, Any]) -> None:
    install(Scenario(name="cold-start", seconds=120, p99_ms=5000, fronts=()), module)
    module["ColdStart"] = ColdStart
    assert scenarios.current is not None  # noqa: S101 - installed above
