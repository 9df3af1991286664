"""What runs for these options: the three servers and what to wait for. Writes their configuration, starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.refresh import refresh
from models.served import Served, told_rows
from serving.children import Launch
from serving.digests import allowed_copy
from serving.gatewayconfig import PYTORCH, TENSORFLOW, render_gateway_config
from serving.localkey import OPEN, LocalKey, bearing, local_key, needs_key
from serving.options import LOOPBACK, Options
from serving.readiness import Goal, page_is_ok, port_answers
from serving.tfserving import TensorFlowServing
from serving.torchserve import TorchServe, find_archives

GATEWAY_GRACE_SECONDS = 35.0  # it drains for up to 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`stages` in the order of starting, see Supervisor; `goals` by server."""

    stages: list[list[Launch]]
    goals: dict[str, list[Goal]]
    client_host: str
    http_port: int
    key: LocalKey | None = None


def make_plan(options: Options, models: Sequence[Served], *, java: Path, binary: Path | None) -> Plan:
    """A server that would have none of the models is left out."""
    logs = options.run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    store = _store(options, models)
    tensorflow = TensorFlowServing(
        port=options.ports["--tf-port"],
        model_store=store / "tensorflow",
        models=_names(models, TENSORFLOW),
        folder=options.run_dir / "tensorflow",
        binary=binary,
        threads=options.threads,
    )
    torchserve = TorchServe(
        ports=options.torchserve_ports(),
        model_store=store / "pytorch",
        archives=find_archives(store / "pytorch", _names(models, PYTORCH)),
        folder=options.run_dir / "torchserve",
        java=java,
        workers_per_model=options.workers_per_model,
        threads_per_worker=options.threads,
    )
    config = options.run_dir / "duet.yaml"
    variants = {model.name: model.variants for model in models}
    key = local_key(options.run_dir / "auth") if needs_key(options.host) else None
    text = render_gateway_config(
        options,
        variants,
        key_file=torchserve.key_file,
        model_config_file=tensorflow.config_file,
        auth=key.settings if key else OPEN,
        rows=told_rows(store, models),
        opaque=[model.name for model in models if model.opaque],
    )
    config.write_text(text)
    servers = []
    if tensorflow.models:
        servers.append(tensorflow.launch(_fresh_log(logs, "tensorflow")))
    if torchserve.archives:
        servers.append(torchserve.launch(_fresh_log(logs, "torchserve")))
    gateway = Launch(
        name="gateway",
        command=(sys.executable, "-m", "gateway", "--config", str(config)),
        folder=options.run_dir,
        log=_fresh_log(logs, "gateway"),
        grace_seconds=GATEWAY_GRACE_SECONDS,
    )
    return Plan(
        stages=[servers, [gateway]],
        goals=_goals(options, models, key),
        client_host=reachable(options.host),
        http_port=options.ports["--http-port"],
        key=key,
    )


def _store(options: Options, models: Sequence[Served]) -> Path:
    """Where the servers load from: the artifacts, or checked copies of them."""
    if options.allow_digests is None:
        return options.artifacts
    names = [model.name for model in models]
    target = options.run_dir / "allowed"
    store = allowed_copy(options.artifacts, names, allow_list=options.allow_digests, target=target)
    refresh(store, names)  # after the check: what is allowed is the model, and the handler is ours
    return store


def reachable(host: str) -> str:
    """The address to call a server at that listens on `host`, which may mean all addresses."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104  (compared, not listened on)


def _goals(options: Options, models: Sequence[Served], key: LocalKey | None) -> dict[str, list[Goal]]:
    headers = bearing(key)
    host, http_port = reachable(options.host), options.ports["--http-port"]
    admin_host, admin_port = reachable(options.admin_host), options.ports["--admin-port"]
    goals = {}
    for server, variant, option in (
        ("tensorflow", TENSORFLOW, "--tf-port"),
        ("torchserve", PYTORCH, "--torchserve-port"),
    ):
        if own := _models(host, http_port, models, variant, headers):
            goals[server] = [_port(LOOPBACK, options.ports[option]), *own]
    readiness = Goal("readiness", lambda: page_is_ok(admin_host, admin_port, "/readyz"))
    return {**goals, "gateway": [_port(host, http_port), readiness]}


def _port(host: str, port: int) -> Goal:
    return Goal(f"port {port}", lambda: port_answers(host, port))


def _names(models: Sequence[Served], variant: str) -> list[str]:
    return [model.name for model in models if variant in model.variants]


def _models(host: str, port: int, models: Sequence[Served], variant: str, headers: Mapping[str, str]) -> list[Goal]:
    """One goal a model: every version of it is ready, not just the one that serves by default."""

    def goal(model: Served) -> Goal:
        start = f"/v2/models/{model.name}@{variant}/versions"
        paths = [f"{start}/{version}/ready" for version in model.versions[variant]]
        return Goal(model.name, lambda: all(page_is_ok(host, port, path, headers) for path in paths))

    return [goal(model) for model in models if variant in model.variants]


def _fresh_log(folder: Path, name: str) -> Path:
    """The log's path, empty; the run before keeps its own beside it."""
    log = folder / f"{name}.log"
    if log.exists():
        log.replace(folder / f"{name}.log.1")
    return log
