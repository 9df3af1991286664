"""How long a server takes from its start to steady answers, each restarted many times, in an order left to chance."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from gateway.protos import tfserving_pb2
from loadtest import blocks
from loadtest.analysis.percentiles import percentile
from loadtest.blocks import Leg
from loadtest.failures import LoadFailed
from loadtest.fronts import DIRECT, Call, Signature
from loadtest.generator.job import write_bodies
from loadtest.payloads import PAYLOADS, requests, rows, twin
from loadtest.progress import Progress
from loadtest.stack import Address, token_of
from loadtest.wire import CallFailed, send
from models.served import Served
from models.spec import FRAMEWORKS
from serving.children import Child, Launch
from serving.failures import Failure
from serving.tfserving import TensorFlowServing, find_binary
from serving.torchserve import TorchServe, TorchServePorts, find_archives, find_java

MILESTONES = ("port", "ready", "first answer", "first latency", "steady")
START_SECONDS, POLL_SECONDS = 120.0, 0.01
WARM_SECONDS = 8.0
Token = Callable[[], Mapping[str, str]]
STEADY_SHARE, STEADY_WINDOWS = 0.10, 3
KINDS = {"tensorflow": "tfserving", "pytorch": "torchserve"}


def run(name: str, version: int, artifacts: Path, restarts: int, folder: Path, console: Console) -> dict[str, Any]:
    """Seconds from the process's start, by variant and milestone; `first latency` is of the first answer alone.

    Raises LoadFailed.
    """
    model = twin(artifacts, name)
    order = [variant for variant in FRAMEWORKS for _ in range(restarts)]
    Random(0).shuffle(order)  # noqa: S311 - an order is no secret
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in FRAMEWORKS}
    with Progress(console, len(order) * (WARM_SECONDS + 10)) as progress:
        for number, variant in enumerate(order, 1):
            progress.begin(f"cold start {number} of {len(order)}: {variant}", WARM_SECONDS + 10)
            try:
                found[variant].append(_once(model, version, variant, artifacts.absolute(), folder.absolute()))
            except Failure as failure:
                raise LoadFailed(f"{variant} does not start: {failure}") from failure
    return {
        "model": name,
        "restarts": restarts,
        "milestones": list(MILESTONES),
        "variants": {variant: summary(rows) for variant, rows in found.items()},
    }


def summary(found: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "median": median(one[name] for one in found),
            "max": max(one[name] for one in found),
            "all": [one[name] for one in found],
        }
        for name in MILESTONES
    }


def _once(model: Served, version: int, variant: str, artifacts: Path, folder: Path) -> dict[str, float]:
    launch, address, token = SERVERS[variant](model, artifacts, folder / variant)
    wire = DIRECT[KINDS[variant]]
    signature = Signature(model.name, version, model.outputs)
    calls = tuple(wire.encode(signature, one) for one in requests(model.inputs, rows(model, PAYLOADS)))
    begun = time.perf_counter()
    child = Child(launch)
    try:
        found = {"port": _wait(child, address.answers) - begun}
        found["ready"] = _wait(child, lambda: READY[variant](model.name, version, address, token)) - begun
        asked = {"at": begun}

        def first_answer() -> bool:
            asked["at"] = time.perf_counter()
            with suppress(CallFailed, LoadFailed):
                send(address, calls[0], token(), seconds=START_SECONDS)
                return True
            return False

        answered = _wait(child, first_answer)
        found |= {"first answer": answered - begun, "first latency": answered - asked["at"]}
        own = tuple(replace(call, headers={**call.headers, **token()}) for call in calls)
        leg = Leg(f"direct/{variant}", "direct", variant, wire, address, own)
        found["steady"] = found["first answer"] + _seconds_until_steady(leg, own, folder)
    finally:
        child.terminate()
        child.kill()
    return found


def _seconds_until_steady(leg: Leg, calls: tuple[Call, ...], folder: Path) -> float:
    """From the first request of one waiting caller to the begin of three windows of a second that are like the last."""
    bodies = folder / "cold-start.npz"
    write_bodies(bodies, [call.body for call in calls])
    job = blocks.job_of(
        leg, bodies=bodies, out=folder / "cold-start.npy", seed=0, cell="cold start", pair=0, seconds=WARM_SECONDS
    )
    jobs = blocks.split(replace(job, callers=1), 1)
    blocks.run(replace(job, callers=1), name="cold start", workers=1, settle_seconds=0.0)
    whole = blocks.Block.read([Path(jobs[0].out)])
    seconds = (whole.ended - whole.intended[0]) / 1e9
    latencies = whole.latencies_ms(10)
    medians = [
        percentile(latencies[part], 50) if (part := (seconds >= n) & (seconds < n + 1)).any() else np.inf
        for n in range(int(WARM_SECONDS))
    ]
    return steady_after(medians)


def steady_after(medians: list[float]) -> float:
    """Seconds until three windows in a row lie within 10 % of the warm median; all of them where none does.

    >>> steady_after([9, 4, 2, 1.05, 1, 1, 1])
    3.0
    """
    warm = median(medians[-STEADY_WINDOWS:])
    near = [abs(one / warm - 1) <= STEADY_SHARE for one in medians]
    starts = range(len(medians) - STEADY_WINDOWS + 1)
    return float(next((n for n in starts if all(near[n : n + STEADY_WINDOWS])), len(medians)))


def _wait(child: Child, reached: Callable[[], bool]) -> float:
    """When it was reached. Raises LoadFailed where the server ends or takes too long."""
    end = time.monotonic() + START_SECONDS
    while not reached():
        if child.exit_code is not None or time.monotonic() > end:
            lines = child.last_lines(1) or ["no word"]
            raise LoadFailed(f"{child.name} does not start; its log ends with: {lines[0]}")
        time.sleep(POLL_SECONDS)
    return time.perf_counter()


def _tensorflow_ready(model: str, version: int, address: Address, _: Token) -> bool:
    """By its own account: GetModelStatus says AVAILABLE."""
    request = tfserving_pb2.GetModelStatusRequest()
    request.model_spec.name, request.model_spec.version.value = model, version
    call = Call("grpc", "/tensorflow.serving.ModelService/GetModelStatus", request.SerializeToString())
    with suppress(CallFailed):
        answer = tfserving_pb2.GetModelStatusResponse.FromString(send(address, call).body)
        return all(one.state == tfserving_pb2.ModelVersionStatus.AVAILABLE for one in answer.model_version_status)
    return False


def _torchserve_ready(_: str, __: int, address: Address, token: Token) -> bool:
    """By its own account: /ping says Healthy, which TorchServe 0.12 does seconds before a worker can answer."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
    try:
        connection.request("GET", "/ping", headers=dict(token()))
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException, LoadFailed):
        return False
    finally:
        connection.close()


READY: dict[str, Callable[[str, int, Address, Token], bool]] = {
    "tensorflow": _tensorflow_ready,
    "pytorch": _torchserve_ready,
}

Started = tuple[Launch, Address, Token]


def _tensorflow(model: Served, artifacts: Path, folder: Path) -> Started:
    (port,) = _free_ports(1)
    server = TensorFlowServing(
        port=port,
        model_store=artifacts / "tensorflow",
        models=[model.name],
        folder=folder,
        binary=find_binary(None),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return server.launch(folder / "log"), Address("127.0.0.1", port), dict


def _torchserve(model: Served, artifacts: Path, folder: Path) -> Started:
    names = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
    ports = TorchServePorts(**dict(zip(names, _free_ports(5), strict=True)))
    server = TorchServe(
        ports=ports,
        model_store=artifacts / "pytorch",
        archives=find_archives(artifacts / "pytorch", [model.name]),
        folder=folder,
        java=find_java(os.environ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return server.launch(folder / "log"), Address("127.0.0.1", ports.inference), lambda: token_of(server.key_file)


SERVERS: dict[str, Callable[[Served, Path, Path], Started]] = {"tensorflow": _tensorflow, "pytorch": _torchserve}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
