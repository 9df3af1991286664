"""Real servers of the Open Inference Protocol, each in an environment of its own, as the tests start and stop them."""

from __future__ import annotations

import json
import os
import shutil
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


_ENVIRONMENTS = ROOT / ".duet" / "peers"
#: Of a model: its inputs and its outputs, each by name, datatype and shape.
Tensors = list[tuple[str, str, list[int]]]
_KINDS = ("FP16", "FP32", "FP64", "INT8", "INT64", "UINT8", "BOOL")


def _python(name: str) -> Path:
    python = _ENVIRONMENTS / name / "bin" / "python"
    assert python.exists(), f"the environment of {name} is missing; make it with `make test-peers`"
    return python


def mlserver(folder: Path) -> Peer:
    """With ``double``, ``words`` (whose version is the text v1.2) and ``kinds``."""
    python = _python("mlserver")

    def told(tensors: Tensors) -> list[dict[str, object]]:
        return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in tensors]

    def model(name: str, kind: str, inputs: Tensors, outputs: Tensors, **parameters: str) -> None:
        settings = {"name": name, "implementation": f"mlserver_models.{kind}", "parameters": parameters}
        (folder / "models" / name).mkdir(parents=True)
        path = folder / "models" / name / "model-settings.json"
        path.write_text(json.dumps({**settings, "inputs": told(inputs), "outputs": told(outputs)}))

    model("double", "Double", [("x", "FP32", [-1, 1])], [("y", "FP32", [-1, 1])])
    model("words", "Words", [("t", "BYTES", [-1])], [("t", "BYTES", [-1, 1])], version="v1.2")
    model(
        "kinds",
        "Kinds",
        [(kind.lower(), kind, [-1]) for kind in _KINDS],
        [(kind.lower(), kind, [-1, 1]) for kind in _KINDS],
    )

    def command(http: int, grpc: int) -> list[str]:
        ports = {"http_port": http, "grpc_port": grpc, "metrics_port": free_port()}
        settings = {**ports, "host": "127.0.0.1", "parallel_workers": 0}
        (folder / "models" / "settings.json").write_text(json.dumps(settings))
        return [str(python.with_name("mlserver")), "start", str(folder / "models")]

    return Peer("mlserver", command, folder, {"PYTHONPATH": str(PEERS)})


_QUEUE = "max_batch_size: 4\ndynamic_batching { default_queue_policy { max_queue_size: 1 } }"


def triton(folder: Path) -> Peer:
    """With two versions of ``double``, ``words``, ``kinds``, and ``queued``, which lets one request wait."""
    python = _python("triton")
    (package,) = python.parents[1].glob("lib/python3*/site-packages")
    server = package / "pytriton" / "tritonserver"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    minor = package.parent.name.removeprefix("python")
    stub = server / "python_backend_stubs" / minor / "triton_python_backend_stub"
    for part in (*(server / "backends" / "python").glob("*.*"), stub):
        shutil.copy(part, backend / part.name)

    def entries(tensors: Tensors) -> str:
        types = {"BYTES": "TYPE_STRING"}
        return ", ".join(
            f'{{ name: "{name}" data_type: {types.get(datatype, f"TYPE_{datatype}")} dims: {shape} }}'
            for name, datatype, shape in tensors
        )

    def model(name: str, inputs: Tensors, outputs: Tensors, versions: tuple[int, ...] = (1,), more: str = "") -> None:
        for version in versions:
            place = folder / "models" / name / str(version)
            place.mkdir(parents=True)
            shutil.copy(PEERS / "triton_model.py", place / "model.py")
        (folder / "models" / name / "config.pbtxt").write_text(
            f'backend: "python"\n{more}\ninput [{entries(inputs)}]\noutput [{entries(outputs)}]\n'
            "instance_group [{ kind: KIND_CPU }]\n"
        )

    x, y = [("x", "FP32", [-1, 1])], [("y", "FP32", [-1, 1])]
    model("double", x, y, (1, 2), "version_policy: { all { } }")
    model("queued", [("x", "FP32", [1])], [("y", "FP32", [1])], more=_QUEUE)
    model("words", [("t", "BYTES", [-1])], [("t_out", "BYTES", [-1])])
    model(
        "kinds",
        [(kind.lower(), kind, [-1]) for kind in _KINDS],
        [(f"{kind.lower()}_out", kind, [-1]) for kind in _KINDS],
    )

    def command(http: int, grpc: int) -> list[str]:
        own = {
            "model-repository": folder / "models",
            "backend-directory": folder / "backends",
            "http-address": "127.0.0.1",
            "http-port": http,
            "grpc-address": "127.0.0.1",
            "grpc-port": grpc,
            "allow-metrics": "false",
        }
        flags = [f"--{name}={value}" for name, value in own.items()]
        return [str(server / "bin" / "tritonserver"), "--disable-auto-complete-config", *flags]

    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "LD_LIBRARY_PATH": str(package / "nvidia_pytriton.libs"), "PYTHONPATH": ""}
    return Peer("triton", command, folder, environment)
