"""Several workers on one port: real processes, real sockets."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge

from gateway.metrics import Metrics
from gateway.protos import v2_pb2
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway, wait_for

Start = Callable[[dict[str, Any]], RunningGateway]
BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [2]}]}


@pytest.fixture
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"m": ["1"], "later": ["1"]})
    yield fake
    fake.close()


@pytest.fixture
def pair(gateway_with: Start, pytorch: FakeTorchServe) -> RunningGateway:
    """Two workers that are ready."""
    server = {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}
    settings = {"servers": {"pytorch": server}, "models": {"m": {}}, "discover": False, "workers": 2}
    running = gateway_with(settings)
    running.wait_until("/v2/health/ready", 200)
    return running


def workers(running: RunningGateway) -> list[psutil.Process]:
    return psutil.Process(running.process.pid).children()


def infer(running: RunningGateway, model: str = "m") -> httpx.Response:
    """Over a connection of its own, which the kernel gives to either worker."""
    return httpx.post(f"{running.url}/v2/models/{model}/infer", json=BODY, timeout=20)


def sample(running: RunningGateway, start: str) -> float:
    text = running.admin.get("/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))


def connections(worker: psutil.Process, port: int) -> int:
    return sum(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in worker.net_connections("tcp"))


def test_both_workers_serve_http_and_grpc_and_are_counted_as_one(pair: RunningGateway) -> None:
    """Counters and histograms are the sums, whichever worker answers the scrape."""
    http_port = pair.client.base_url.port
    assert http_port is not None
    clients = [httpx.Client(base_url=pair.url) for _ in range(32)]
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{pair.grpc_port}", options=options) for _ in range(32)]
    live = [channel.unary_unary("/inference.GRPCInferenceService/ModelInfer") for channel in channels]
    message = v2_pb2.ModelInferRequest(model_name="m")
    entry = message.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    entry.contents.fp32_contents.append(2.0)
    for client, call in zip(clients, live, strict=True):
        assert client.post("/v2/models/m/infer", json=BODY).json()["outputs"][0]["data"] == [4.0]
        call(message.SerializeToString(), timeout=10)
    for worker in workers(pair):
        assert connections(worker, http_port) > 0
        assert connections(worker, pair.grpc_port) > 0
    for _ in range(4):
        wait_for(lambda: sample(pair, "duet_requests_total{") == 64, "every request to be counted")
        assert sample(pair, "duet_request_seconds_count{") == 64
        assert sample(pair, 'duet_request_seconds_bucket{front="v2_rest",le="+Inf"') == 32
    assert sample(pair, "process_resident_memory_bytes{") > 2 * 50e6
    for client in clients:
        client.close()
    for channel in channels:
        channel.close()


def test_a_dead_worker_is_replaced_and_what_it_counted_stays(pair: RunningGateway, pytorch: FakeTorchServe) -> None:
    """Its gauges go with it: nobody is in flight in a dead process."""
    for _ in range(10):
        infer(pair)
    pytorch.delay_seconds = 30
    with ThreadPoolExecutor(8) as callers:
        calls = [callers.submit(infer, pair) for _ in range(8)]
        wait_for(lambda: sample(pair, 'duet_requests_in_flight{front="v2_rest"}') == 8, "the calls to be counted")
        before = workers(pair)
        for worker in before:
            worker.kill()
        pytorch.delay_seconds = 0  # not before: a call that was only then on its way would be answered
        for call in calls:
            assert isinstance(call.exception(), httpx.TransportError)
    wait_for(lambda: not {w.pid for w in workers(pair)} & {w.pid for w in before}, "other workers")
    pair.wait_until("/v2/health/ready", 200)
    assert infer(pair).status_code == 200
    wait_for(lambda: sample(pair, "duet_requests_total{") == 11, "every request to be counted")
    assert sample(pair, "duet_requests_in_flight{") == 0


def test_connections_wait_for_the_next_worker_where_one_has_died(pair: RunningGateway) -> None:
    """The supervisor keeps the socket: nobody is refused between a death and the next worker."""
    workers(pair)[0].kill()
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda _: infer(pair).status_code, range(16)))
    assert set(answers) <= {200, 503}  # 503: the new worker has not yet asked which models there are


def test_sighup_renews_every_worker_under_load(pair: RunningGateway, tmp_path: Path) -> None:
    """Over REST with new connections, and over gRPC with some that stay, while the settings gain a model.

    gRPC's C core cancels a call that comes in the moment in which it tells the connection to end: at most the one in
    flight on each connection, once.
    """
    before = {worker.pid for worker in workers(pair)}
    path = tmp_path / "duet.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "models": {"m": {}, "later": {}}}))
    done, outcomes = threading.Event(), Counter[Any]()

    def call_rest() -> None:
        while not done.is_set():
            outcomes[infer(pair).status_code] += 1

    def call_grpc() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{pair.grpc_port}") as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            while not done.is_set():
                try:
                    live(b"", timeout=10)
                    outcomes["grpc"] += 1
                except grpc.RpcError as error:
                    outcomes[error.code()] += 1  # type: ignore[attr-defined]

    with ThreadPoolExecutor(6) as callers:
        calls = [callers.submit(call) for call in (call_rest, call_rest, call_rest, call_grpc, call_grpc, call_grpc)]
        pair.process.send_signal(signal.SIGHUP)
        wait_for(lambda: b"all workers are new" in pair.log.read_bytes(), "the restart to end", seconds=60)
        done.set()
        for call in calls:
            call.result()
    assert outcomes.keys() <= {200, "grpc", grpc.StatusCode.CANCELLED}, outcomes
    assert outcomes[200] > 20 < outcomes["grpc"]
    assert outcomes[grpc.StatusCode.CANCELLED] <= 3 * 2
    assert len(workers(pair)) == 2
    assert not before & {worker.pid for worker in workers(pair)}
    assert infer(pair, "later").status_code == 200
    # A request is counted when its answer has gone.
    counted = 'duet_requests_total{code="OK",front="v2_rest"'
    wait_for(lambda: sample(pair, counted) == outcomes[200] + 1, "every request to be counted once")


def test_sighup_with_wrong_settings_changes_nothing(pair: RunningGateway, tmp_path: Path) -> None:
    before = {worker.pid for worker in workers(pair)}
    (tmp_path / "duet.yaml").write_text("servers: {}")
    pair.process.send_signal(signal.SIGHUP)
    wait_for(lambda: b"the settings are wrong" in pair.log.read_bytes(), "the complaint")
    assert {worker.pid for worker in workers(pair)} == before
    assert infer(pair).status_code == 200


def test_sigterm_drains_every_worker(pair: RunningGateway, pytorch: FakeTorchServe) -> None:
    """Sixteen calls are in flight, in both workers; each has its answer before the processes end."""
    found = workers(pair)
    pytorch.delay_seconds = 3  # so long that on a busy machine too the first call waits for the last one
    with ThreadPoolExecutor(16) as callers:
        calls = [callers.submit(infer, pair) for _ in range(16)]
        wait_for(lambda: sample(pair, 'duet_requests_in_flight{front="v2_rest"}') == 16, "the calls to be in flight")
        pair.process.send_signal(signal.SIGTERM)
        assert {call.result().status_code for call in calls} == {200}
    assert pair.process.wait(20) == 0
    assert not any(worker.is_running() for worker in found)


@pytest.mark.parametrize(
    "while_leaving",
    [pytest.param(False, id="serving"), pytest.param(True, id="leaving", marks=pytest.mark.full)],
)
def test_a_worker_that_hangs_is_replaced(gateway_with: Start, pytorch: FakeTorchServe, *, while_leaving: bool) -> None:
    """The kind: alive for the kernel, and dead for its callers. Stopped by a signal, it hears none but SIGKILL."""
    server = {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}
    settings = {"servers": {"pytorch": server}, "models": {"m": {}}, "discover": False, "workers": 2}
    pair = gateway_with({**settings, "max_lag_seconds": 0.5})
    pair.wait_until("/v2/health/ready", 200)
    before = workers(pair)
    before[0].suspend()
    if while_leaving:
        pair.process.send_signal(signal.SIGTERM)
        assert pair.process.wait(20) == 0
        return
    wait_for(lambda: not before[0].is_running(), "the hung worker to be ended")
    wait_for(lambda: len(workers(pair)) == 2, "another in its place")
    pair.wait_until("/v2/health/ready", 200)
    assert before[1] in workers(pair)
    assert {infer(pair).status_code for _ in range(20)} == {200}


def test_workers_end_with_their_supervisor(pair: RunningGateway) -> None:
    found = workers(pair)
    pair.process.kill()
    _, alive = psutil.wait_procs(found, timeout=20)
    assert not alive


@pytest.mark.full
def test_workers_that_keep_dying_end_the_process(pair: RunningGateway) -> None:
    """Exit code 1 and a line that says so, for whoever restarts processes to see."""
    end = time.monotonic() + 60
    while pair.process.poll() is None and time.monotonic() < end:
        for worker in psutil.Process(pair.process.pid).children():
            worker.kill()
        time.sleep(0.1)
    assert pair.process.wait(10) == 1
    assert re.search(rb"died 5 times within a minute", pair.log.read_bytes())


def test_a_port_that_another_program_has_is_not_shared_with_it(pair: RunningGateway, tmp_path: Path) -> None:
    """SO_REUSEPORT alone would let a second gateway take half of the connections without a word."""
    from tests.gateway.test_process import run

    second = run("--config", str(tmp_path / "duet.yaml"))
    assert second.returncode == 1
    assert "Address already in use; choose another port" in second.stderr


def test_every_gauge_says_how_it_adds_up_over_workers() -> None:
    """prometheus_client's default would show one series a process id, for ever."""
    registry = CollectorRegistry()
    Metrics(registry)
    gauges = [found for found in registry._collector_to_names if isinstance(found, Gauge)]
    assert gauges
    for gauge in gauges:
        assert gauge._multiprocess_mode.startswith("live"), gauge._name
