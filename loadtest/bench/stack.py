"""The servers and gateways that the rows measure, started for one run and stopped with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.bench import twins
from loadtest.bench.payloads import torchserve_token
from serving.children import Child, Launch
from serving.readiness import page_is_ok, port_answers
from serving.tfserving import TensorFlowServing, find_binary
from serving.torchserve import Archive, TorchServe, TorchServePorts, find_archives, find_java

MODEL, TUNED = "mlp", "mlp_tuned"
_HOST = "127.0.0.1"
_START_SECONDS = 120.0


class BenchError(Exception):
    """The benchmark cannot run; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running one. ``ready_seconds`` is the time from its process's start until it was ready."""

    child: Child
    http: int
    grpc: int
    admin: int
    ready_seconds: float


@dataclass(slots=True)
class Stack:
    """``folder`` takes everything that is written, ``artifacts`` has the trained models. End it with the ``with``."""

    folder: Path
    artifacts: Path
    _exit: ExitStack = field(default_factory=ExitStack)
    _servers: Servers | None = None

    def __enter__(self) -> Stack:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def start(self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Child:
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        launch = Launch(
            name=name,
            command=tuple(command),
            folder=Path.cwd(),
            log=log,
            environment={**os.environ, **(environment or {})},
        )
        return self._begin(launch)

    def gateway(
        self, name: str, settings: dict[str, Any], *, command: Sequence[str] = ("-m", "gateway"), workers: int = 1
    ) -> Gateway:
        """A gateway that is ready. ``command`` are the interpreter's arguments."""
        http, grpc, admin = free_ports(3)
        whole = {
            "auth": {"mode": "off"},
            **settings,
            "http": {"port": http},
            "grpc": {**settings.get("grpc", {}), "port": grpc},
            "admin": {"port": admin},
            "discover": False,
            "workers": workers,
            "log": {"level": "warning", **settings.get("log", {})},
        }
        config = self.folder / f"{name}.yaml"
        config.write_text(json.dumps(whole))  # JSON is YAML
        begun = time.monotonic()
        child = self.start(name, [sys.executable, *command, "--config", str(config)])
        wait(lambda: page_is_ok(_HOST, admin, "/readyz"), child)
        return Gateway(child, http, grpc, admin, time.monotonic() - begun)

    def servers(self) -> Servers:
        """Both real servers with `MODEL`, its tuned copy and the benchmark's own; started once."""
        if self._servers is None:
            self._servers = self._start_servers()
        return self._servers

    def _start_servers(self) -> Servers:
        store = self._model_store()
        ports = free_ports(6)
        tensorflow = TensorFlowServing(
            port=ports[0],
            model_store=self.folder / "models" / "tensorflow",
            models=[MODEL, twins.NAME],
            folder=self.folder / "tensorflow",
            binary=find_binary(None),
        )
        archives = [*find_archives(store, [MODEL, twins.NAME]), Archive(TUNED, 1, f"{TUNED}-1.mar", batch_size=32)]
        torchserve = TorchServe(
            ports=TorchServePorts(
                inference=ports[1],
                management=ports[2],
                metrics=ports[3],
                grpc_inference=ports[4],
                grpc_management=ports[5],
            ),
            model_store=store,
            archives=archives,
            folder=self.folder / "torchserve",
            java=find_java(os.environ),
        )
        children = [
            self._begin(server.launch(self._fresh_log(name)))
            for name, server in (("tensorflow", tensorflow), ("torchserve", torchserve))
        ]
        wait(lambda: port_answers(_HOST, ports[0]), children[0])
        wait(lambda: port_answers(_HOST, ports[1]) and torchserve.key_file.exists(), children[1])
        settings: dict[str, Any] = {
            "servers": {
                "tensorflow": {"kind": "tfserving", "endpoint": f"{_HOST}:{ports[0]}"},
                "pytorch": {
                    "kind": "torchserve",
                    "endpoint": f"http://{_HOST}:{ports[1]}",
                    "management": f"http://{_HOST}:{ports[2]}",
                    "key_file": str(torchserve.key_file),
                },
            },
            "models": {MODEL: {}, twins.NAME: {}},
        }
        gateway = self.gateway("gateway", settings)
        for variant in settings["servers"]:
            for model in settings["models"]:
                path = f"/v2/models/{model}@{variant}/ready"
                wait(lambda path=path: page_is_ok(_HOST, gateway.http, path), gateway.child)  # type: ignore[misc]
        return Servers(gateway, settings, ports[0], ports[1], torchserve_token(torchserve.key_file))

    def _model_store(self) -> Path:
        """The models that are measured, gathered in the run's own folder; made once."""
        models = self.folder / "models"
        if not (models / f"{twins.NAME}.pt").exists():
            run([sys.executable, "-m", "loadtest.bench.twins", str(models)])
            options = ["--name", twins.NAME, "--input", f"{twins.INPUT}:FP32:-1,3,224,224", "--output", twins.OUTPUT]
            run(
                [
                    sys.executable,
                    "-m",
                    "models",
                    "import",
                    str(models / f"{twins.NAME}.pt"),
                    *options,
                    "--out",
                    str(models),
                    "--force",
                ]
            )
        trained = sorted((self.artifacts / "pytorch").glob(f"{MODEL}-*.mar"))
        if not trained:
            raise BenchError(f"{MODEL} is not trained: run make train ARGS={MODEL}, or make train")
        for source in (*trained, self.artifacts / "tensorflow" / MODEL):
            link = models / ("pytorch" if source.suffix == ".mar" else "tensorflow") / source.name
            link.unlink(missing_ok=True)
            link.symlink_to(source.resolve())
        rename(trained[-1], models / "pytorch" / f"{TUNED}-1.mar", name=TUNED)
        return models / "pytorch"

    def _fresh_log(self, name: str) -> Path:
        log = self.folder / f"{name}.log"
        log.unlink(missing_ok=True)
        return log

    def _begin(self, launch: Launch) -> Child:
        child = Child(launch)
        self._exit.callback(_end, child)
        return child


@dataclass(frozen=True, slots=True)
class Servers:
    """Ports of the real servers and of the gateway before them; ``token`` is the header line that TorchServe wants."""

    gateway: Gateway
    settings: dict[str, Any]
    tensorflow: int
    torchserve: int
    token: str


def rename(archive: Path, target: Path, *, name: str) -> None:
    """A copy of a TorchServe archive under another model's name."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.namelist():
            content = source.read(entry)
            if entry == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content)
                manifest["model"] |= {"modelName": name, "modelVersion": "1"}
                content = json.dumps(manifest).encode()
            copy.writestr(entry, content)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((_HOST, 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def wait(condition: Callable[[], bool], child: Child, *, seconds: float = _START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if child.exit_code is not None or time.monotonic() > end:
            lines = "\n".join(child.last_lines())
            raise BenchError(f"{child.name} is not ready; the end of {child.launch.log}:\n{lines}")
        time.sleep(0.01)


def run(command: Sequence[str]) -> None:
    """Raises BenchError with what it printed where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def _end(child: Child) -> None:
    child.terminate()
    end = time.monotonic() + child.launch.grace_seconds
    while not child.gone() and time.monotonic() < end:
        time.sleep(0.05)
    child.kill()
