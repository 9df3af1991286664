"""The server as a process: the embedded one, or the command given with ``--server-cmd``."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

EMBEDDED = f"{sys.executable} -m serving.embedded"
LIMITS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """One process. Its output lies in ``folder``; `ready` waits until its port answers."""

    def __init__(self, folder: Path, flags: Iterable[str], *, command: str = EMBEDDED, port: int | None = None) -> None:
        self.port = port or free_port()
        self.rest_port = free_port()
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*shlex.split(command), f"--port={self.port}", f"--rest_api_port={self.rest_port}", *flags],
                stdout=stdout,
                stderr=stderr,
            )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=LIMITS)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def ready(self, seconds: float = 120) -> Server:
        for port in (self.port, self.rest_port):
            self._answers(port, time.monotonic() + seconds)
        return self

    def _answers(self, port: int, limit: float) -> None:
        while time.monotonic() < limit:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.stdout}{self.stderr}"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError(f"port {port} does not answer:\n{self.stdout}{self.stderr}")

    def ended(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def config_text(models: dict[str, Path], extra: str = "") -> str:
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" '
        f"model_version_policy {{ all {{}} }} {extra} }}\n"
        for name, path in models.items()
    )
    return f"model_config_list {{\n{entries}}}\n"
