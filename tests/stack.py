"""The whole of Duet as its user starts it: ``python -m serving up``, with real TensorFlow and real TorchServe."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

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


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
