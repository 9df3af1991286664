from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class RunningGateway:
    """The real process, on ports of its own."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    admin: httpx.Client
    log: Path
    grpc_port: int

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    def infer(self, model: str, values: list[float], **headers: str) -> httpx.Response:
        return infer(self.client, model, values, **headers)

    def wait_until(self, path: str, status: int) -> None:
        wait_for(lambda: self.client.get(path).status_code == status, f"{path} to answer {status}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.client.close()
        self.admin.close()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def infer(client: httpx.Client, model: str, values: list[float], **headers: str) -> httpx.Response:
    body = {"inputs": [{"name": "x", "shape": [len(values), 1], "datatype": "FP32", "data": values}]}
    return client.post(f"/v2/models/{model}/infer", json=body, headers=headers)


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_gateway(
    settings: dict[str, Any],
    folder: Path,
    *options: str,
    tls: ssl.SSLContext | None = None,
    python: Sequence[str] = (sys.executable,),
    command: Sequence[str] = ("-m", "gateway"),
) -> RunningGateway:
    """Starts ``python -m gateway`` and waits until it answers. ``settings`` need not name ports.

    With ``tls`` the HTTP port is called by it. ``python`` is the interpreter with its own options, ``command`` what it
    runs in place of the gateway's own.
    """
    settings = {"refresh_seconds": 0.2, "auth": {"mode": "off"}, **settings}
    settings["http"] = {"port": free_port(), **settings.get("http", {})}
    settings["grpc"] = {"port": free_port(), **settings.get("grpc", {})}
    settings["admin"] = {"port": free_port()}
    path, log = folder / "duet.yaml", folder / "gateway.log"
    path.write_text(json.dumps(settings))  # JSON is YAML
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*python, *command, "--config", str(path), *options],
            stdout=stream,
            stderr=stream,
            env=os.environ,
        )
    running = RunningGateway(
        process,
        httpx.Client(
            base_url=f"{'https' if tls else 'http'}://127.0.0.1:{settings['http']['port']}",
            timeout=20,
            verify=tls or True,
        ),
        httpx.Client(base_url=f"http://127.0.0.1:{settings['admin']['port']}", timeout=20),
        log,
        settings["grpc"]["port"],
    )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return running.client.get("/v2/health/live").status_code == 200
        except httpx.ConnectError:
            return False

    wait_for(answers, "the gateway to answer")
    return running


@pytest.fixture
def gateway_with(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], RunningGateway]]:
    """Starts gateways with the given settings; they are stopped after the test."""
    started: list[RunningGateway] = []

    def start(settings: dict[str, Any]) -> RunningGateway:
        started.append(start_gateway(settings, tmp_path))
        return started[-1]

    yield start
    for running in started:
        running.stop()
