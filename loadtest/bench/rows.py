"""The rows of `make bench`: what is measured against what, and how good it has to be.

Unless a row says otherwise: one row of 784 float32 in binary, to the `mlp` twin.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

from loadtest.bench import twins
from loadtest.bench.generator import Generator
from loadtest.bench.jobs import Job, Result
from loadtest.bench.measure import Options, Outcome, Target, compare, p50, with_answers
from loadtest.bench.payloads import Payload
from loadtest.bench.stack import MODEL, TUNED, Gateway, Servers, Stack, free_ports, wait
from serving.localkey import OPEN, local_key
from serving.readiness import port_answers

_MANY = 64
_MIB = 1 << 20
_STARTS = 5
_RELAY = "through a relay of bytes"
#: More than is used: counted all the same.
_QUOTAS = ("--rate=1000000", "--concurrency=100000", f"--elements-per-day={1 << 50}", f"--bytes-per-day={1 << 50}")


#: Of a call to a server, about.
_ROUND_TRIP_SECONDS = 0.001

_LAYERS = ("bounds", "limit", "retry", "breaker", "balance", "validation")


@dataclass
class Bench:
    """What the rows share. Each row starts what it needs."""

    stack: Stack
    generator: Generator
    options: Options
    idle_mib: float = 0.0

    @cached_property
    def servers(self) -> Servers:
        servers = self.stack.servers()
        self.idle_mib = resident_mib(servers.gateway)
        return servers

    @cached_property
    def mlp(self) -> Payload:
        """With the right answers, which TorchServe gives when it is asked one by one."""
        payload = Payload.random("image", (1, 28, 28, 1))
        return with_answers(payload, self.torchserve(payload), count=10)

    @cached_property
    def image(self) -> Payload:
        payload = Payload.random(twins.INPUT, (1, *twins.SHAPE), count=4)
        means = tuple(
            batch.mean(axis=(2, 3), dtype=np.float64).astype(np.float32).tobytes() for batch in payload.batches
        )
        return replace(payload, expected=means)

    @cached_property
    def echoed(self) -> Payload:
        payload = Payload.random("image", (1, 28, 28, 1))
        return replace(payload, expected=tuple(batch.ravel()[:10].tobytes() for batch in payload.batches))

    def torchserve(self, payload: Payload, model: str = MODEL, *, port: int = 0) -> Job:
        """Directly, or over another port that leads there."""
        port = port or self.servers.torchserve
        return payload.v2_binary(port, f"/predictions/{model}", headers=self.servers.token)

    def gateway(self, payload: Payload, variant: str, model: str = MODEL) -> Job:
        return payload.v2_binary(self.servers.gateway.http, f"/v2/models/{model}@{variant}/infer")

    def echo(self, name: str, *, models: int = 10, workers: int = 1, auth: Mapping[str, Any] = OPEN) -> Gateway:
        settings = {**_echo_settings(models), "auth": dict(auth)}
        return self.stack.gateway(name, settings, command=("-m", "loadtest.bench.echo"), workers=workers)

    def layered(self, name: str, *, on: bool) -> Job:
        """To a front with every layer before an echo, or with none that can be switched off. Unbatched."""
        switched = {layer: {"enabled": on} for layer in _LAYERS}
        settings = {**_echo_settings(), **switched, "batching": {"enabled": False}}
        gateway = self.stack.gateway(name, settings, command=("-m", "loadtest.bench.echo", "--balanced"))
        return self.to_echo(gateway)

    def joined(self, name: str, **batching: Any) -> Job:
        """To a front whose servers take a millisecond a call, so that requests for them are joined."""
        settings = {**_echo_settings(), "batching": batching}
        command = ("-m", "loadtest.bench.echo", f"--round-trip={_ROUND_TRIP_SECONDS}")
        return self.to_echo(self.stack.gateway(name, settings, command=command))

    def unproven(self, name: str, *, on: bool) -> Job:
        """To a front whose models say nothing of their rows, with batching on or without it."""
        settings = {**_echo_settings(), "batching": {"enabled": on}}
        return self.to_echo(self.stack.gateway(name, settings, command=("-m", "loadtest.bench.echo", "--unproven")))

    def to_echo(self, gateway: Gateway, *, headers: str = "") -> Job:
        return self.echoed.v2_binary(gateway.http, "/v2/models/m0/infer", headers=headers)

    def guarded(self) -> Job:
        """To a front that asks who calls, counts every quota and writes an audit line."""
        key = local_key(self.stack.folder / "auth", *_QUOTAS)
        return self.to_echo(self.echo("guarded", auth=key.settings), headers=f"x-api-key: {key.key}\r\n")

    def relayed(self, port: int) -> int:
        """The port of a bare relay of bytes before that one."""
        (relay,) = free_ports(1)
        command = [sys.executable, "-m", "loadtest.bench.relay", str(relay), str(port)]
        child = self.stack.start(f"relay-{port}", command)
        wait(lambda: port_answers("127.0.0.1", relay), child)
        return relay

    def compare(self, ours: Job, others: dict[str, Job], **more: Any) -> Outcome:
        return compare(self.generator, ours, others, self.options, **more)


def _echo_settings(models: int = 10) -> dict[str, Any]:
    return {
        "servers": {"echo": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}},
        "models": {f"m{number}": {} for number in range(models)},
        "log": {"access": False},
    }


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    title: str
    target: Target
    run: Callable[[Bench], Outcome]


def many(job: Job, connections: int = _MANY) -> Job:
    """So many requests at a time; over gRPC on eight connections."""
    if job.wire == "grpc":
        return replace(job, connections=8, streams=connections // 8)
    return replace(job, connections=connections)


def torchserve(bench: Bench) -> Outcome:
    return bench.compare(many(bench.gateway(bench.mlp, "pytorch")), {"TorchServe": many(bench.torchserve(bench.mlp))})


def tensorflow(bench: Bench) -> Outcome:
    direct = bench.mlp.predict(bench.servers.tensorflow, MODEL)
    return bench.compare(many(bench.gateway(bench.mlp, "tensorflow")), {"TensorFlow server, gRPC": many(direct)})


def tuned(bench: Bench) -> Outcome:
    direct = many(bench.torchserve(bench.mlp, TUNED))
    return bench.compare(many(bench.gateway(bench.mlp, "pytorch")), {"TorchServe, 32 / 1 ms": direct})


def tuned_alone(bench: Bench) -> Outcome:
    direct = bench.torchserve(bench.mlp, TUNED)
    ours = bench.gateway(bench.mlp, "pytorch")
    return bench.compare(ours, {"TorchServe, 32 / 1 ms": direct}, measure=p50, unit=" us")


def torchserve_alone(bench: Bench) -> Outcome:
    ours = bench.gateway(bench.mlp, "pytorch")
    floors = {_RELAY: bench.torchserve(bench.mlp, port=bench.relayed(bench.servers.torchserve))}
    return bench.compare(ours, {"TorchServe": bench.torchserve(bench.mlp)}, measure=p50, unit=" us", floors=floors)


def tensorflow_alone(bench: Bench) -> Outcome:
    ours, direct = bench.gateway(bench.mlp, "tensorflow"), bench.mlp.predict(bench.servers.tensorflow, MODEL)
    floors = {_RELAY: bench.mlp.predict(bench.relayed(bench.servers.tensorflow), MODEL)}
    return bench.compare(ours, {"TensorFlow server, gRPC": direct}, measure=p50, unit=" us", floors=floors)


def image(bench: Bench) -> Outcome:
    ours = many(bench.gateway(bench.image, "pytorch", twins.NAME), 8)
    direct = many(bench.torchserve(bench.image, twins.NAME), 8)
    megabytes = bench.image.batches[0].nbytes / 1e6

    def rate(result: Result) -> float:
        return result.per_second * megabytes

    return bench.compare(ours, {"TorchServe": direct}, measure=rate, unit=" MB/s")


def front(bench: Bench) -> Outcome:
    (port,) = free_ports(1)
    bare = bench.stack.start("bare", [sys.executable, "-m", "loadtest.bench.bare", str(port)])
    wait(lambda: port_answers("127.0.0.1", port), bare)
    ours = many(bench.to_echo(bench.echo("front")))
    return bench.compare(ours, {"bare uvicorn": many(bench.echoed.v2_binary(port, "/"))})


def connections(bench: Bench) -> Outcome:
    """As many callers at a time as this are meant to be served here: the limit on requests in flight is told so, and
    that a quarter of a second each is no overload."""
    mlp = bench.mlp
    wide = bench.stack.gateway("wide", {**bench.servers.settings, "limit": {"most": 2048, "calm_seconds": 1}})
    job = mlp.v2_binary(wide.http, f"/v2/models/{MODEL}@pytorch/infer")
    return bench.compare(replace(job, connections=1024), {"64 connections": many(job)})


def models(bench: Bench) -> Outcome:
    ours = bench.to_echo(bench.echo("models-1000", models=1000))
    return bench.compare(ours, {"10 models": bench.to_echo(bench.echo("models-10"))}, measure=p50, unit=" us")


def workers(bench: Bench) -> Outcome:
    """Where the machine has no core left for the generator, what it took of them is given back by calculation."""
    cores = os.cpu_count() or 1

    def available(result: Result, workers: int) -> float:
        return min(workers, cores - result.cpu_seconds / result.seconds)

    def ratio(two: Result, one: Result) -> float:
        return 2 * (two.per_second / available(two, 2)) / (one.per_second / available(one, 1))

    two, one = bench.echo("workers-2", workers=2), bench.echo("workers-1")
    return bench.compare(many(bench.to_echo(two)), {"one worker": many(bench.to_echo(one))}, combine=ratio)


def guarded(bench: Bench) -> Outcome:
    return bench.compare(many(bench.guarded()), {"without": many(bench.to_echo(bench.echo("open")))})


def guarded_alone(bench: Bench) -> Outcome:
    def difference(ours: Result, other: Result) -> float:
        return p50(ours) - p50(other)

    other = {"without": bench.to_echo(bench.echo("open"))}
    return bench.compare(bench.guarded(), other, measure=p50, unit=" us", combine=difference)


def layers(bench: Bench) -> Outcome:
    other = {"without": many(bench.layered("layers-off", on=False))}
    return bench.compare(many(bench.layered("layers-on", on=True)), other)


def layers_alone(bench: Bench) -> Outcome:
    other = {"without": bench.layered("layers-off", on=False)}
    return bench.compare(bench.layered("layers-on", on=True), other, measure=p50, unit=" us")


def sampled(bench: Bench) -> Outcome:
    """What the sample of batches that are asked again costs, where requests are joined."""
    other = {"no batch asked again": many(bench.joined("sampled-off", sample_share=0))}
    return bench.compare(many(bench.joined("sampled-on")), other)


def unproven(bench: Bench) -> Outcome:
    """What it costs to look up that nobody knows whether rows are independent. Every request goes alone."""
    other = {"batching off": many(bench.unproven("unproven-off", on=False))}
    return bench.compare(many(bench.unproven("unproven-on", on=True)), other)


def start(bench: Bench) -> Outcome:
    """Before real servers that are up, until ``/readyz`` says yes."""
    found = [bench.stack.gateway(f"start-{number}", bench.servers.settings) for number in range(_STARTS)]
    for gateway in found:
        gateway.child.terminate()
    seconds = [gateway.ready_seconds for gateway in found]
    return Outcome(seconds, f"{min(seconds):.2f} to {max(seconds):.2f} s", unit=" s")


def memory_idle(bench: Bench) -> Outcome:
    _ = bench.servers
    return Outcome([bench.idle_mib], "resident", unit=" MiB")


def memory_after(bench: Bench) -> Outcome:
    _ = bench.servers
    after = resident_mib(bench.servers.gateway)
    return Outcome([after / bench.idle_mib], f"{after:.0f} MiB after the rows above, {bench.idle_mib:.0f} MiB before")


def resident_mib(gateway: Gateway) -> float:
    return float(psutil.Process(gateway.child.pid).memory_info().rss) / _MIB


ROWS = (
    Row("start", "process start to ready", Target(most=1.2), start),
    Row("memory-idle", "resident memory, idle", Target(most=120 * 1e6 / _MIB), memory_idle),
    Row("torchserve", "PyTorch, 64 connections, against TorchServe directly", Target(least=6), torchserve),
    Row("tensorflow", "TensorFlow over REST, 64 connections, against gRPC directly", Target(least=2.5), tensorflow),
    Row("tuned", "PyTorch, 64 connections, against TorchServe batching by itself", Target(least=0.8), tuned),
    Row("tuned-p50", "the same, p50 at 1 connection", Target(most=0.7), tuned_alone),
    Row("torchserve-p50", "p50 at 1 connection against TorchServe directly", Target(most=1.35), torchserve_alone),
    Row(
        "tensorflow-p50", "p50 at 1 connection against TensorFlow's server directly", Target(most=1.6), tensorflow_alone
    ),
    Row("image", "602 KB image, 8 connections, MB/s against TorchServe directly", Target(least=0.7), image),
    Row("front", "front alone, against a bare uvicorn application", Target(least=0.6), front),
    Row(
        "connections",
        "1,024 connections against 64 (limit: {most: 2048, calm_seconds: 1})",
        Target(least=0.9),
        connections,
    ),
    Row("models", "p50 with 1,000 models against 10", Target(most=1.05), models),
    Row("guarded", "keys, grants, quotas and audit, against a front without", Target(least=0.9), guarded),
    Row("guarded-p50", "what they add to p50 at 1 connection, us", Target(most=150), guarded_alone),
    Row("layers", "every layer on, against all off, unbatched, 64 connections", Target(least=0.95), layers),
    Row("layers-p50", "the same, p50 at 1 connection", Target(most=1.05), layers_alone),
    Row("sampled", "joined, the default share of batches asked again, against none", Target(least=0.98), sampled),
    Row("unproven", "rows of which nothing is known, against batching off", Target(least=0.98), unproven),
    Row("workers", "two workers against one, generator aside", Target(least=1.6), workers),
    Row("memory-after", "resident memory after the rows above, against idle", Target(most=1.3), memory_after),
)
