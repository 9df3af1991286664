"""The gateway as a process: starting, losing a server and getting it back, draining."""

from __future__ import annotations

import json
import pstats
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for

Start = Callable[[dict[str, Any]], RunningGateway]


def torchserve_alone(fake: FakeTorchServe, **more: Any) -> dict[str, Any]:
    server = {"kind": "torchserve", "endpoint": fake.url, "management": fake.url}
    return {"servers": {"pytorch": server}, "models": {"m": {}}, **more}


def test_a_dead_server_is_503_at_once_and_the_other_goes_on(gateway_with: Start) -> None:
    tensorflow, pytorch = FakeTFServing({"m": [1]}), FakeTorchServe({"m": ["1"]})
    settings = torchserve_alone(pytorch)
    settings["servers"]["tensorflow"] = {"kind": "tfserving", "endpoint": tensorflow.endpoint}
    gateway = gateway_with(settings)
    gateway.wait_until("/v2/models/m@pytorch/ready", 200)
    gateway.wait_until("/v2/models/m@tensorflow/ready", 200)

    pytorch.close()
    dead = gateway.infer("m@pytorch", [1])
    assert dead.status_code == 503
    assert dead.headers["retry-after"] == "1"
    assert dead.json()["error"].endswith("TorchServe cannot be reached")
    gateway.wait_until("/v2/models/m@pytorch/ready", 503)
    assert gateway.infer("m@tensorflow", [1]).json()["outputs"][0]["data"] == [2.0]
    assert gateway.client.get("/v2/health/ready").status_code == 200

    again = FakeTorchServe({"m": ["1"]}, port=pytorch.port)
    gateway.wait_until("/v2/models/m@pytorch/ready", 200)
    assert gateway.infer("m@pytorch", [1]).json()["outputs"][0]["data"] == [2.0]

    tensorflow.close()
    gateway.wait_until("/v2/models/m@tensorflow/ready", 503)
    assert gateway.infer("m@tensorflow", [1]).status_code == 503
    again.close()
    gateway.wait_until("/v2/health/ready", 503)


def test_a_slow_server_is_504_when_the_default_deadline_comes(gateway_with: Start) -> None:
    pytorch = FakeTorchServe({"m": ["1"]})
    gateway = gateway_with(torchserve_alone(pytorch, default_deadline_seconds=0.2))
    gateway.wait_until("/v2/models/m/ready", 200)
    pytorch.delay_seconds = 1
    answer = gateway.infer("m", [1])
    assert answer.status_code == 504
    assert answer.json() == {"error": "m did not answer before the request's deadline"}
    pytorch.close()


def test_sigterm_finishes_what_is_in_flight_and_turns_readiness_off(gateway_with: Start) -> None:
    pytorch = FakeTorchServe({"m": ["1"]})
    gateway = gateway_with(torchserve_alone(pytorch, linger_seconds=0.5))
    gateway.wait_until("/v2/models/m/ready", 200)
    pytorch.delay_seconds = 0.8
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(gateway.infer("m", [2])))
    caller.start()
    wait_for(lambda: bool(pytorch.predicted), "the request to reach the server")

    gateway.process.send_signal(signal.SIGTERM)
    wait_for(lambda: gateway.admin.get("/readyz").status_code == 503, "readiness to say no")
    assert gateway.infer("m/versions/9", [1]).status_code == 404  # still served while it lingers
    caller.join()
    assert answers[0].json()["outputs"][0]["data"] == [4.0]
    assert gateway.process.wait(10) == 0
    with pytest.raises(httpx.TransportError):
        gateway.client.get("/v2")
    pytorch.close()


def test_a_second_signal_stops_at_once(gateway_with: Start) -> None:
    """Fifteen seconds of work are in flight; nobody waits for them after the second signal, and the caller is told."""
    pytorch = FakeTorchServe({"m": ["1"]})
    gateway = gateway_with(torchserve_alone(pytorch))
    gateway.wait_until("/v2/models/m/ready", 200)
    pytorch.delay_seconds = 15

    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(gateway.infer("m", [2])))
    caller.start()
    wait_for(lambda: bool(pytorch.predicted), "the request to reach the server")
    gateway.process.send_signal(signal.SIGTERM)
    wait_for(lambda: b"draining" in gateway.log.read_bytes(), "the drain to begin")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(5) == 0
    caller.join()
    assert answers[0].status_code == 503
    assert answers[0].json() == {"error": "the gateway was told to stop at once"}
    pytorch.close()


def test_each_request_leaves_one_access_line(gateway_with: Start) -> None:
    pytorch = FakeTorchServe({"m": ["1"]})
    gateway = gateway_with(torchserve_alone(pytorch))
    gateway.wait_until("/v2/models/m/ready", 200)
    gateway.infer("m", [1, 2], **{"x-request-id": "find-me"})
    gateway.stop()
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "find-me"]
    assert line["path"] == "/v2/models/m/infer"
    assert (line["status"], line["variant"], line["version"], line["rows"]) == (200, "pytorch", "1", 2)
    pytorch.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, timeout=20, check=False
    )


def test_a_bad_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "duet.yaml"
    path.write_text("servers: {}\nmodels: {}\nhttp: {port: x}\nauth: {mode: off}\n")
    result = run("--config", str(path))
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"{path}: http.port: Input should be a valid integer, unable to parse string as an integer"
    ]


def test_a_port_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "duet.yaml"
        servers = {"tensorflow": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}
        auth = {"mode": "off"}
        path.write_text(json.dumps({"servers": servers, "models": {"m": {}}, "http": {"port": port}, "auth": auth}))
        assert run("--config", str(path), "--check-config").returncode == 0
        result = run("--config", str(path))
    assert result.returncode == 1
    assert result.stderr.strip() == f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port"


def test_the_admin_port_shows_the_live_picture(gateway_with: Start) -> None:
    """Endpoints, limits and retries, and, once the server is gone, that it is out and why."""
    pytorch = FakeTorchServe({"m": ["1"]})
    gateway = gateway_with({**torchserve_alone(pytorch), "refresh_seconds": 60})
    gateway.wait_until("/v2/models/m/ready", 200)
    assert gateway.infer("m", [1]).status_code == 200
    told = gateway.admin.get("/admin/backends").json()["servers"]["pytorch"]
    (endpoint,) = told["endpoints"].values()
    assert (endpoint["ready"], endpoint["out"], endpoint["in_flight"]) == (["m"], {}, 0)
    assert endpoint["models"]["m"]["answers"] >= 1
    assert told["limits"]["m"]["limit"] >= 1
    assert told["retries"]["m"]["left"] > 0
    pytorch.close()
    assert gateway.infer("m", [1]).status_code == 503
    (endpoint,) = gateway.admin.get("/admin/backends").json()["servers"]["pytorch"]["endpoints"].values()
    assert endpoint["out"]["*"]["reason"] == "absent"
    assert gateway.client.get("/admin/backends").status_code == 404


def test_a_wish_about_criticality_is_checked(gateway_with: Start) -> None:
    pytorch = FakeTorchServe({"m": ["1"]})
    gateway = gateway_with(torchserve_alone(pytorch))
    gateway.wait_until("/v2/models/m/ready", 200)
    assert gateway.infer("m", [1], **{"x-duet-criticality": "sheddable"}).status_code == 200
    wrong = gateway.infer("m", [1], **{"x-duet-criticality": "urgent"})
    assert (wrong.status_code, "sheddable" in wrong.json()["error"]) == (400, True)
    pytorch.close()


def test_a_profile_tells_which_functions_took_the_time(tmp_path: Path) -> None:
    """It is printed at the end and kept in the file, requests and all."""
    fake, file = FakeTorchServe({"m": ["1"]}), tmp_path / "gateway.prof"
    gateway = start_gateway(torchserve_alone(fake), tmp_path, "--profile", str(file))
    gateway.wait_until("/v2/models/m@pytorch/ready", 200)
    assert gateway.infer("m", [1]).status_code == 200
    assert gateway.stop() == 0
    functions = {(Path(place).name, name) for place, _, name in pstats.Stats(str(file)).stats}  # type: ignore[attr-defined]
    assert ("router.py", "infer") in functions
    assert "tottime" in gateway.log.read_text()
