"""Load on one variant of a model over the Open Inference Protocol's REST, as fast as the answers come.

    locust -f loadtest/locustfiles/v2_rest.py --host http://localhost:8000 --model convnet --variant pytorch

The body is encoded once, so that no time is spent on it between requests; both variants get the same bytes.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from locust import FastHttpUser, constant, events, task
from locust.env import Environment

from loadtest.payloads import json_body
from loadtest.recorder import Recorder

recorder = Recorder()


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="linear_regression", help="a model of the catalog")
    parser.add_argument("--variant", default="tensorflow", help="tensorflow or pytorch")
    parser.add_argument("--samples", default="", metavar="FILE", help="where to write every request's times (.npy)")


@events.test_start.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    V2RestUser.body = json_body(options.model)
    V2RestUser.path = f"/v2/models/{options.model}@{options.variant}/infer"


@events.quitting.add_listener
def _write(environment: Environment, **_: Any) -> None:
    if environment.parsed_options.samples:
        recorder.write(Path(environment.parsed_options.samples))


class V2RestUser(FastHttpUser):
    """One caller: it sends the next request when the answer to the last has come."""

    wait_time = constant(0)
    body = b""
    path = ""

    @task
    def infer(self) -> None:
        started = perf_counter_ns()
        with self.client.post(self.path, data=self.body, name="infer", catch_response=True) as response:
            ended = perf_counter_ns()
            failed = response.status_code != 200
            if failed:
                response.failure(f"status {response.status_code}: {response.text}")
        recorder.add(started, ended, failed=failed)
