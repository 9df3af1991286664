"""What runs for these options: the three servers and what to wait for. Writes their configuration, starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.spec import ModelSpec
from serving.children import Launch
from serving.gatewayconfig import PYTORCH, TENSORFLOW, render_gateway_config
from serving.options import LOOPBACK, Options
from serving.readiness import Goal, page_is_ok, port_answers
from serving.tfserving import TensorFlowServing
from serving.torchserve import TorchServe, find_archives

VARIANTS = (TENSORFLOW, PYTORCH)
GATEWAY_GRACE_SECONDS = 35.0  # it drains for up to 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`stages` in the order of starting, see Supervisor; `goals` by server."""

    stages: list[list[Launch]]
    goals: dict[str, list[Goal]]
    client_host: str
    http_port: int


def make_plan(options: Options, specs: Sequence[ModelSpec], *, java: Path, binary: Path | None) -> Plan:
    names = [spec.name for spec in specs]
    logs = options.run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    tensorflow = TensorFlowServing(
        port=options.ports["--tf-port"],
        model_store=options.artifacts / "tensorflow",
        models=names,
        folder=options.run_dir / "tensorflow",
        binary=binary,
        threads=options.threads,
    )
    torchserve = TorchServe(
        ports=options.torchserve_ports(),
        model_store=options.artifacts / "pytorch",
        archives=find_archives(options.artifacts / "pytorch", names),
        folder=options.run_dir / "torchserve",
        java=java,
        workers_per_model=options.workers_per_model,
        threads_per_worker=options.threads,
    )
    config = options.run_dir / "duet.yaml"
    config.write_text(render_gateway_config(options, dict.fromkeys(names, VARIANTS), key_file=torchserve.key_file))
    servers = [
        tensorflow.launch(_fresh_log(logs, "tensorflow")),
        torchserve.launch(_fresh_log(logs, "torchserve")),
    ]
    gateway = Launch(
        name="gateway",
        command=(sys.executable, "-m", "gateway", "--config", str(config)),
        folder=options.run_dir,
        log=_fresh_log(logs, "gateway"),
        grace_seconds=GATEWAY_GRACE_SECONDS,
    )
    return Plan(
        stages=[servers, [gateway]],
        goals=_goals(options, specs),
        client_host=reachable(options.host),
        http_port=options.ports["--http-port"],
    )


def reachable(host: str) -> str:
    """The address to call a server at that listens on `host`, which may mean all addresses."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104  (compared, not listened on)


def _goals(options: Options, specs: Sequence[ModelSpec]) -> dict[str, list[Goal]]:
    host, http_port = reachable(options.host), options.ports["--http-port"]
    admin_host, admin_port = reachable(options.admin_host), options.ports["--admin-port"]
    return {
        "tensorflow": [_port(LOOPBACK, options.ports["--tf-port"]), *_models(host, http_port, specs, TENSORFLOW)],
        "torchserve": [_port(LOOPBACK, options.ports["--torchserve-port"]), *_models(host, http_port, specs, PYTORCH)],
        "gateway": [
            _port(host, http_port),
            Goal("readiness", lambda: page_is_ok(admin_host, admin_port, "/readyz")),
        ],
    }


def _port(host: str, port: int) -> Goal:
    return Goal(f"port {port}", lambda: port_answers(host, port))


def _models(host: str, port: int, specs: Sequence[ModelSpec], variant: str) -> list[Goal]:
    """One goal a model: every version of it is ready, not just the one that serves by default."""

    def goal(spec: ModelSpec) -> Goal:
        paths = [f"/v2/models/{spec.name}@{variant}/versions/{version}/ready" for version in spec.versions]
        return Goal(spec.name, lambda: all(page_is_ok(host, port, path) for path in paths))

    return [goal(spec) for spec in specs]


def _fresh_log(folder: Path, name: str) -> Path:
    """The log's path, empty; the run before keeps its own beside it."""
    log = folder / f"{name}.log"
    if log.exists():
        log.replace(folder / f"{name}.log.1")
    return log
