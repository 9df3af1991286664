"""The rendered pods as real processes: the gateway, the TensorFlow server and the real TorchServe, as rendered."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from gateway.protos import health_pb2
from tests.helm.chart import EXAMPLES, ROOT, Object, Rendering, render
from tests.helm.local import Machine, Running
from tests.helm.queries import labels_of, metrics_of, of_dashboard, of_rules
from tests.helm.server_promises import gateway_config
from tests.stack import ARTIFACTS

DRAIN_SECONDS = 3
START_SECONDS = 120
#: Not the gateway's: Prometheus's own, and those of kube-state-metrics.
OF_OTHERS = {"up", "kube_job_status_failed", "kube_job_status_start_time"}
SUFFIX = r"_(total|bucket|sum|count)$"
#: Labels that Prometheus adds to what it scrapes.
OF_THE_TARGET = {"namespace", "service", "le"}

LOAD = ["--model=linear_regression", "--variant=pytorch", "--seconds=4", "--rate=20"]

VALUES: dict[str, Any] = {
    "models": {
        "linear_regression": {"variants": ["tensorflow", "pytorch"], "versions": [1, 2]},
        "lstm_text_generator": {"variants": ["tensorflow", "pytorch"], "versions": [2]},
    },
    "helmTest": {"models": []},
    "tfserving": {"drainSeconds": DRAIN_SECONDS},
    "gateway": {"config": {"linger_seconds": 2, "refresh_seconds": 0.5}},
    "monitoring": {
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "parityCheck": {"enabled": True},
    "loadtest": {"enabled": True, "workers": 2, "users": 4, "runTime": "4s", "args": LOAD},
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """All pods of a release, ready."""
    train_what_is_missing()
    machine = Machine(render(values=VALUES), tmp_path_factory.mktemp("pods"))
    try:
        for framework in ("tensorflow", "pytorch"):
            machine.place_models(framework)
        for name in ("tfserving-main", "torchserve-main", "gateway"):
            pod = machine.pod(f"Deployment/duet-{name}")
            machine.mount(pod)
            for container in ("door", name.removesuffix("-main")):
                if container != "door" or name == "torchserve-main":
                    machine.start(pod, container)
        for name in ("tfserving-main", "torchserve-main", "gateway"):
            one = machine.pod(f"Deployment/duet-{name}")["spec"]["containers"][0]
            until(lambda one=one: probe(machine, one, "readinessProbe"), machine)
        until(lambda: all_ready(machine), machine)
        yield machine
    finally:
        machine.stop()


def train_what_is_missing() -> None:
    wanted = [ARTIFACTS / "pytorch" / f"{name}-2.mar" for name in VALUES["models"]]
    if not all(path.exists() for path in wanted):
        subprocess.run([sys.executable, "-m", "models", "train", *VALUES["models"]], cwd=ROOT, check=True, timeout=500)


def until(is_so: Callable[[], bool], machine: Machine, seconds: float = START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        logs = "\n".join(one.text()[-2000:] for one in machine.running)
        assert all(one.process.poll() is None for one in machine.running), logs
        assert time.monotonic() < end, logs
        time.sleep(0.2)


def probe(machine: Machine, container: Object, kind: str) -> bool:
    """Asks what the kubelet would ask."""
    asked = container[kind]
    if "grpc" in asked:
        return healthy(machine.ports[asked["grpc"]["port"]])
    port = asked["httpGet"]["port"]
    if isinstance(port, str):
        port = next(entry["containerPort"] for entry in container["ports"] if entry["name"] == port)
    try:
        return httpx.get(f"http://127.0.0.1:{machine.ports[port]}{asked['httpGet']['path']}").status_code == 200
    except httpx.TransportError:
        return False


def healthy(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            return bool(check(health_pb2.HealthCheckRequest(), timeout=5).status == 1)
        except grpc.RpcError:
            return False


def all_ready(machine: Machine) -> bool:
    names = [f"{m}@{v}" for m in VALUES["models"] for v in ("tensorflow", "pytorch")]
    client = f"http://127.0.0.1:{machine.ports[8000]}/v2/models"
    return all(httpx.get(f"{client}/{name}/ready").status_code == 200 for name in names)


def running(machine: Machine, container: str) -> Running:
    return next(one for one in machine.running if one.log.stem == container)


def call(machine: Machine, pod: str) -> tuple[int, str]:
    template = machine.pod(pod)
    machine.mount(template)
    started = machine.start(template, "calls")
    machine.running.remove(started)
    code = started.process.wait(120)
    text = started.text()
    started.log.unlink()
    return code, text


@pytest.mark.parametrize("example", [None, *EXAMPLES])
def test_the_gateway_takes_the_rendered_settings(tmp_path: Path, example: str | None) -> None:
    rendering = render(*([EXAMPLES[example]] if example else []))
    file = tmp_path / "duet.yaml"
    [config] = [one for one in rendering.all("ConfigMap") if "duet.yaml" in one["data"]]
    file.write_text(config["data"]["duet.yaml"])
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--check-config", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(gateway_config(rendering)['models'])} models on 2 servers" in done.stdout


@pytest.mark.parametrize("kind", ["startupProbe", "livenessProbe", "readinessProbe"])
@pytest.mark.parametrize("pod", ["gateway", "tfserving-main", "torchserve-main"])
def test_the_rendered_probes_are_answered(machine: Machine, pod: str, kind: str) -> None:
    assert probe(machine, machine.pod(f"Deployment/duet-{pod}")["spec"]["containers"][0], kind)


def test_helm_test_calls_every_model_in_both_frameworks(machine: Machine) -> None:
    code, text = call(machine, "Pod/duet-test-inference")
    assert code == 0, text
    assert "4 calls, no fault found" in text
    for model in VALUES["models"]:
        assert f"{model}: tensorflow, pytorch answered" in text


def test_the_parity_check_finds_the_twins_equal(machine: Machine) -> None:
    code, text = call(machine, "CronJob/duet-parity")
    assert code == 0, text
    assert "4 calls, no fault found" in text


def test_the_load_test_runs_on_its_workers_and_leaves_its_results(machine: Machine) -> None:
    jobs = {name.split("-")[2]: pod for name, pod in machine.rendering.pods() if "-loadtest-" in name}
    for pod in jobs.values():
        machine.mount(pod)
    master = machine.start(jobs["master"], "locust")
    workers = [machine.start(jobs["worker"], "locust") for _ in range(2)]
    try:
        assert master.process.wait(60) == 0, master.text()
        assert [worker.process.wait(20) for worker in workers] == [0, 0], master.text()
    finally:
        for one in (master, *workers):
            machine.running.remove(one)
            one.process.kill()
    [stats] = Path(f"{machine.folder}/results").glob("*_stats.csv")
    total = stats.read_text().splitlines()[-1].split(",")
    assert int(total[2]) > 10, total
    assert int(total[3]) == 0, total


def test_metrics_of_the_servers_are_where_the_pod_monitors_look(machine: Machine) -> None:
    for server, port in (("tfserving", 8501), ("torchserve", 8083)):
        [monitor] = [one for one in machine.rendering.all("PodMonitor") if server in one["metadata"]["name"]]
        path = monitor["spec"]["podMetricsEndpoints"][0]["path"]
        answer = httpx.get(f"http://127.0.0.1:{machine.ports[port]}{path}")
        assert answer.status_code == 200
        assert list(text_string_to_metric_families(answer.text)), f"{server} shows no metrics"


def exported(machine: Machine) -> dict[str, set[str]]:
    """Every name that the running gateway exports, with its labels."""
    text = httpx.get(f"http://127.0.0.1:{machine.ports[8002]}/metrics").text
    shown = {family.name for family in text_string_to_metric_families(text)}
    registry = CollectorRegistry()
    Metrics(registry)
    found: dict[str, set[str]] = {}
    # A family without a sample yet shows no labels: those are asked of the module.
    for collector, names in registry._collector_to_names.items():
        for name in names:
            found[name] = set(collector._labelnames)
    return {name: labels for name, labels in found.items() if re.sub(SUFFIX, "", name) in shown}


def test_alerts_and_dashboard_ask_for_what_the_gateway_exports(machine: Machine) -> None:
    call(machine, "Pod/duet-test-inference")
    known = exported(machine)
    queries = [*of_rules(machine.rendering), *of_dashboard(machine.rendering)]
    assert len(queries) > 20
    for query in queries:
        for metric in metrics_of(query) - OF_OTHERS:
            assert metric in known, f"nobody exports {metric}: {query}"
            assert labels_of(query, metric) <= known[metric] | OF_THE_TARGET, f"{metric}: {query}"


def test_the_latency_objective_is_a_bound_of_the_histogram(machine: Machine) -> None:
    text = httpx.get(f"http://127.0.0.1:{machine.ports[8002]}/metrics").text
    for seconds, written in ((0.25, "0.25"), (0.004, "0.004"), (1, "1.0"), (16, "16.0")):
        rules = {"monitoring": {"prometheusRule": {"enabled": True, "latencySeconds": seconds}}}
        queries = of_rules(render(values=rules))
        assert sum(f'le="{written}"' in query for query in queries) == 2
        assert f'le="{written}"' in text


def test_nothing_but_the_door_stands_open_at_torchserve(machine: Machine) -> None:
    """The rendered door lets predictions through, and neither management nor tokens."""
    door = f"http://127.0.0.1:{machine.ports[8080]}"
    assert httpx.get(f"{door}/ping").status_code == 200
    for method, path in (("GET", "/models"), ("POST", "/predictions/linear_regression")):
        assert httpx.request(method, door + path).json()["type"] == "InvalidKeyException"
    assert httpx.post(f"{door}/models?url=x.mar").status_code == 404


# From here on pods are stopped, in this order.


def test_a_tensorflow_server_that_is_told_to_go_answers_for_a_while_and_then_ends(machine: Machine) -> None:
    one = running(machine, "tfserving")
    told = time.monotonic()
    one.process.terminate()
    time.sleep(DRAIN_SECONDS / 2)
    assert healthy(machine.ports[8500])
    assert one.process.wait(20) == 0
    assert time.monotonic() - told >= DRAIN_SECONDS
    assert not healthy(machine.ports[8500])
    machine.running.remove(one)


def test_helm_test_fails_where_a_framework_is_away(machine: Machine) -> None:
    code, text = call(machine, "Pod/duet-test-inference")
    assert code == 1
    assert "linear_regression@tensorflow" in text
    assert "linear_regression: pytorch answered" in text


def test_torchserve_heeds_sigterm(machine: Machine) -> None:
    one = running(machine, "torchserve")
    assert one.stop(seconds=30) in (0, 143)
    machine.running.remove(one)
    door = running(machine, "door")
    assert httpx.get(f"http://127.0.0.1:{machine.ports[8080]}/ping").status_code == 502
    assert door.stop(seconds=40) == 0
    machine.running.remove(door)


def test_the_gateway_says_that_it_is_going_and_still_answers_within_its_grace(machine: Machine) -> None:
    one = running(machine, "gateway")
    one.process.terminate()
    time.sleep(0.5)
    container = machine.pod("Deployment/duet-gateway")["spec"]["containers"][0]
    assert not probe(machine, container, "readinessProbe")
    assert probe(machine, container, "livenessProbe")
    assert httpx.get(f"http://127.0.0.1:{machine.ports[8000]}/v2").status_code == 200
    assert one.process.wait(40) == 0
    machine.running.remove(one)


def test_a_rendering_that_the_gateway_does_not_know_is_refused(tmp_path: Path) -> None:
    """The check of the settings can fail."""
    rendering: Rendering = render(values={"gateway": {"config": {"no_such_setting": 1}}})
    file = tmp_path / "duet.yaml"
    [config] = [one for one in rendering.all("ConfigMap") if "duet.yaml" in one["data"]]
    file.write_text(config["data"]["duet.yaml"])
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--check-config", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no_such_setting" in done.stderr
