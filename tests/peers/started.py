"""Real servers of the Open Inference Protocol, each in an environment of its own, as the tests start and stop them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.gateway.conftest import free_port
from tests.stack import ROOT

PEERS = Path(__file__).parent


@dataclass
class Peer:
    """A server on ports of its own. ``command`` makes its command line of the two ports."""

    name: str
    command: Callable[[int, int], list[str]]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def http_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    def start(self, *, model: str = "double", seconds: float = 90) -> None:
        """Returns once the model is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(self.http_port, self.grpc_port),
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                cwd=self.folder,
                start_new_session=True,
            )
        end = time.monotonic() + seconds
        while not self._is_ready(model):
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < end, f"{self.name} was not ready in {seconds} s: {self.log.read_text()[-4000:]}"
            time.sleep(0.05)

    def _is_ready(self, model: str) -> bool:
        try:
            return httpx.get(f"{self.http_endpoint}/v2/models/{model}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """With what it has started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def kserve(folder: Path) -> Peer:
    python = ROOT / ".venv-kserve" / "bin" / "python"
    assert python.exists(), "the KServe SDK's environment is missing; make it with `make kserve`"
    # Its own tests' PYTHONPATH is ours; the server must not find our packages.
    return Peer(
        "kserve",
        lambda http, grpc: [
            *(str(python), str(PEERS / "kserve_server.py"), "--http_port", str(http), "--grpc_port", str(grpc)),
            *("--enable_docs_url", "False"),
        ],
        folder,
        {"PYTHONPATH": ""},
    )
