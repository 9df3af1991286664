"""The rows of `make bench-peers`: the same TorchScript file in other servers, each as fast as its settings make it.

MLServer and BentoML are measured with their adaptive batching and without, since it does not always help; KServe's
Python server has none of its own.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.jobs import Job
from loadtest.bench.measure import Outcome, Target
from loadtest.bench.rows import Bench, Row, many
from loadtest.bench.stack import MODEL, BenchError, Stack, free_ports, wait
from serving.readiness import page_is_ok

_SCRIPTS = Path(__file__).parent / "peers"
_HOST = "127.0.0.1"
_MLSERVER = "from mlserver.cli import main; main()"
_ENVIRONMENTS = Path(".duet/peers")


@dataclass(frozen=True, slots=True)
class Ports:
    http: int
    grpc: int = 0


@dataclass(frozen=True, slots=True)
class Peers:
    """Where each one listens."""

    mlserver: Ports
    mlserver_batching: Ports
    kserve: Ports
    bentoml: Ports


def start(stack: Stack) -> Peers:
    """Starts what is not running yet. Raises BenchError where an environment is missing."""
    global _running
    if _running is None:
        model = _torchscript(stack)
        _running = Peers(
            _mlserver(stack, model, "mlserver", {}),
            _mlserver(stack, model, "mlserver-batching", {"max_batch_size": 32, "max_batch_time": 0.002}),
            _kserve(stack, model),
            _bentoml(stack, model),
        )
    return _running


_running: Peers | None = None


def v2_json(bench: Bench) -> Outcome:
    others = _json_legs(bench, start(bench.stack))
    ours = bench.mlp.v2_json(bench.servers.gateway.http, f"/v2/models/{MODEL}@pytorch/infer")
    return bench.compare(many(ours), others)


def v2_binary(bench: Bench) -> Outcome:
    """Against whatever the others do best."""
    peers = start(bench.stack)
    others = {**_json_legs(bench, peers), **_grpc_legs(bench, peers)}
    others["KServe, binary"] = many(bench.mlp.v2_binary(peers.kserve.http, f"/v2/models/{MODEL}/infer"))
    return bench.compare(many(bench.gateway(bench.mlp, "pytorch")), others)


def v2_grpc(bench: Bench) -> Outcome:
    ours = bench.mlp.v2_grpc(bench.servers.gateway.grpc, f"{MODEL}@pytorch")
    kserve = bench.mlp.v2_grpc(start(bench.stack).kserve.grpc, MODEL)
    return bench.compare(many(ours), {"KServe, gRPC": many(kserve)})


def v2_grpc_native(bench: Bench) -> Outcome:
    """A gateway of its own on the transport for trusted clients."""
    gateway = bench.stack.gateway("gateway-native", {**bench.servers.settings, "grpc": {"transport": "native"}})
    kserve = bench.mlp.v2_grpc(start(bench.stack).kserve.grpc, MODEL)
    return bench.compare(many(bench.mlp.v2_grpc(gateway.grpc, f"{MODEL}@pytorch")), {"KServe, gRPC": many(kserve)})


ROWS = (
    Row("json", "v2 JSON, 64 connections, against the best peer over JSON", Target(least=5), v2_json),
    Row("binary", "v2 binary, 64 connections, against the best peer over anything", Target(least=5), v2_binary),
    Row("grpc", "v2 gRPC, 64 calls in flight, against KServe's", Target(least=3), v2_grpc),
    Row("grpc-native", "the same on the native transport", Target(least=3), v2_grpc_native),
)


def _json_legs(bench: Bench, peers: Peers) -> dict[str, Job]:
    path, mlp = f"/v2/models/{MODEL}/infer", bench.mlp
    return {
        "MLServer": many(mlp.v2_json(peers.mlserver.http, path)),
        "MLServer, batching": many(mlp.v2_json(peers.mlserver_batching.http, path)),
        "KServe": many(mlp.v2_json(peers.kserve.http, path)),
        "BentoML": many(mlp.plain_json(peers.bentoml.http, "/single")),
        "BentoML, batching": many(mlp.plain_json(peers.bentoml.http, "/batched")),
    }


def _grpc_legs(bench: Bench, peers: Peers) -> dict[str, Job]:
    return {
        "MLServer, gRPC": many(bench.mlp.v2_grpc(peers.mlserver.grpc, MODEL)),
        "MLServer, gRPC, batching": many(bench.mlp.v2_grpc(peers.mlserver_batching.grpc, MODEL)),
        "KServe, gRPC": many(bench.mlp.v2_grpc(peers.kserve.grpc, MODEL)),
    }


def _torchscript(stack: Stack) -> Path:
    """The very file that TorchServe serves: of the highest version, which is its default."""
    archive = sorted((stack.artifacts / "pytorch").glob(f"{MODEL}-*.mar"))[-1]
    path = stack.folder / f"{MODEL}.pt"
    with zipfile.ZipFile(archive) as content:
        path.write_bytes(content.read("model.pt"))
    return path


def _mlserver(stack: Stack, model: Path, name: str, batching: Mapping[str, Any]) -> Ports:
    http, grpc, metrics = free_ports(3)
    folder = stack.folder / name
    folder.mkdir(exist_ok=True)
    settings = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "host": _HOST, "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps({**settings, "debug": False}))
    described = {"name": MODEL, "implementation": "mlserver_model.TorchScript", **batching}
    (folder / "model-settings.json").write_text(json.dumps(described))
    environment = {"PYTHONPATH": str(_SCRIPTS)}
    _start(stack, name, "mlserver", ["-c", _MLSERVER, "start", str(folder)], model, environment, http)
    return Ports(http, grpc)


def _kserve(stack: Stack, model: Path) -> Ports:
    http, grpc = free_ports(2)
    command = [str(_SCRIPTS / "kserve_server.py"), "--http_port", str(http), "--grpc_port", str(grpc)]
    _start(stack, "kserve", "kserve", [*command, "--enable_docs_url", "False"], model, {}, http)
    return Ports(http, grpc)


def _bentoml(stack: Stack, model: Path) -> Ports:
    (http,) = free_ports(1)
    command = ["-m", "bentoml", "serve", "bentoml_service:TorchScript", "--working-dir", str(_SCRIPTS)]
    environment = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(stack.folder / "bentoml")}
    _start(stack, "bentoml", "bentoml", [*command, "--host", _HOST, "--port", str(http)], model, environment, http)
    return Ports(http)


def _start(
    stack: Stack,
    name: str,
    kind: str,
    command: Sequence[str],
    model: Path,
    environment: Mapping[str, str],
    http: int,
) -> None:
    python = (_ENVIRONMENTS / kind / "bin" / "python").absolute()
    if not python.exists():
        raise BenchError(f"{python} is missing: `make bench-peers` makes it")
    alone = {
        "PYTHONPATH": "",
        "BENCH_MODEL": str(model),
        **environment,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    child = stack.start(name, [str(python), *command], environment=alone)
    path = "/readyz" if kind == "bentoml" else f"/v2/models/{MODEL}/ready"
    wait(lambda: page_is_ok(_HOST, http, path), child)
