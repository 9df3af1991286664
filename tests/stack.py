"""The whole of Duet as its user starts it: ``python -m serving up``, with real TensorFlow and real TorchServe."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

ROOT = Path(__file__).parents[1]
#: The folder that ``make up`` uses too: what is trained there is not trained again.
ARTIFACTS = ROOT / "artifacts"
START_SECONDS = 400  # training included, on a slow machine
READY = "Ctrl-C stops everything."


@dataclass
class Stack:
    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    admin_port: int
    ports: list[int]
    output: Path
    run_dir: Path
    client: httpx.Client = field(init=False)
    admin: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", timeout=30)
        self.admin = httpx.Client(base_url=f"http://127.0.0.1:{self.admin_port}", timeout=30)

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for_text(self, text: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while text not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, f"no {text!r} within {seconds:.0f} s:\n{self.text()}"
            time.sleep(0.2)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.client.close()
            self.admin.close()
            if self.process.poll() is None:
                self.process.kill()


def start_stack(folder: Path, *options: str) -> Stack:
    """Starts everything on free ports, with ``folder`` for logs and configuration. Does not wait."""
    ports = free_ports(9)
    names = ["http", "grpc", "admin", "tf", "torchserve", "torchserve-management", "torchserve-metrics"]
    names += ["torchserve-grpc", "torchserve-grpc-management"]
    arguments = [part for name, port in zip(names, ports, strict=True) for part in (f"--{name}-port", str(port))]
    output = folder / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", "up", "--run-dir", str(folder / "run"), *arguments, *options],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "COLUMNS": "200"},
        )
    return Stack(process, ports[0], ports[1], ports[2], ports, output, folder / "run")


@contextmanager
def second_gateway(stack: Stack, folder: Path, **settings: Any) -> Iterator[Stack]:
    """Another gateway over the servers of ``stack``, with ``settings`` in place of its own; ready like the first."""
    http_port, grpc_port, admin_port = free_ports(3)
    own = yaml.safe_load((stack.run_dir / "duet.yaml").read_text())
    ports = {"http": {"port": http_port}, "grpc": {"port": grpc_port}, "admin": {"port": admin_port}}
    config, output = folder / "duet.yaml", folder / "output"
    config.write_text(yaml.safe_dump({**own, **ports, **settings}))
    with output.open("wb") as stream:
        command = [sys.executable, "-m", "gateway", "--config", str(config)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
    second = Stack(process, http_port, grpc_port, admin_port, [], output, stack.run_dir)
    try:
        _wait_for_models(second, stack)
        yield second
    finally:
        second.stop(signal.SIGTERM)


def _wait_for_models(second: Stack, stack: Stack) -> None:
    wanted = stack.client.post("/v2/repository/index", json={"ready": True}).json()
    names = [f"{entry['name']}@{variant}" for entry in wanted for variant in ("tensorflow", "pytorch")]
    paths = [f"/v2/models/{name}/ready" for name in names]
    paths = [path for path in paths if stack.client.get(path).status_code == 200]
    end = time.monotonic() + 30
    while paths:
        assert second.process.poll() is None, second.text()
        assert time.monotonic() < end, f"{paths} are not ready:\n{second.text()}"
        with suppress(httpx.TransportError):
            paths = [path for path in paths if second.client.get(path).status_code != 200]
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
