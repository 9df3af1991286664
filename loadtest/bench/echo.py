"""The gateway's front alone: its own composition with servers that answer at once, in the same process.

``python -m loadtest.bench.echo --config FILE``. What a server of the settings lists as its ``endpoint`` is not called.
``--balanced`` puts what stands before each server's clients (balance, breaker, validation) before them too.
``--round-trip`` makes each call take so many seconds, whatever its rows, so that requests queue and are joined.
``--unproven`` says nothing of the models' rows.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from gateway.backends.base import Server
from gateway.config import Settings, load
from gateway.layering import Layering
from gateway.logging import configure
from gateway.metrics import Metrics
from gateway.servers.balanced import Balanced
from gateway.types import (
    DEFAULT_SIGNATURE,
    InferRequest,
    InferResponse,
    ModelMetadata,
    Rows,
    Signature,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

SIGNATURE = Signature(
    (TensorSpec("image", "FP32", (-1, 28, 28, 1)),),
    (TensorSpec("probabilities", "FP32", (-1, 10)),),
    rows=Rows.INDEPENDENT,
)
_UNPROVEN = replace(SIGNATURE, rows=Rows.UNKNOWN)


class Echo:
    """A Server whose every model answers with the first ten values of each row."""

    def __init__(self, variant: str, *, round_trip_seconds: float = 0.0, unproven: bool = False) -> None:
        self._variant = variant
        self._round_trip_seconds = round_trip_seconds
        signature = _UNPROVEN if unproven else SIGNATURE
        self._versions = {1: VersionMetadata(1, True, {DEFAULT_SIGNATURE: signature})}

    async def infer(self, request: InferRequest) -> InferResponse:
        if self._round_trip_seconds:
            await asyncio.sleep(self._round_trip_seconds)
        data = request.inputs[0].data
        rows = data.reshape(len(data), -1)[:, :10]
        output = Tensor("probabilities", "FP32", np.ascontiguousarray(rows))
        return InferResponse(request.model, self._variant, 1, (output,))

    async def metadata(self, model: str) -> ModelMetadata:
        return ModelMetadata(model, self._variant, "echo", self._versions, 1)

    async def models(self) -> Collection[str] | None:
        return None

    async def aclose(self) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.echo", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("duet.yaml"))
    parser.add_argument("--balanced", action="store_true")
    parser.add_argument("--round-trip", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--unproven", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        gc.disable()
        from gateway.process import run_worker
        from gateway.workers.order import read

        order = read(sys.stdin.buffer)
        configure(order.settings.log.level)
        run_worker(order, connect=lambda name, _: Echo(name))
        return 0

    def connect(name: str) -> Echo:
        return Echo(name, round_trip_seconds=arguments.round_trip, unproven=arguments.unproven)

    return _serve(load(arguments.config, os.environ), connect, balanced=arguments.balanced)


def _balanced(settings: Settings, connect: Callable[[str], Echo], name: str) -> Server:
    layers = Layering(settings, Metrics(CollectorRegistry()))

    async def resolve() -> list[str]:
        return ["127.0.0.1"]

    return Balanced(
        name=name,
        resolve=resolve,
        connect=lambda _: layers.validated(connect(name)),
        guard=lambda address: layers.guard(name, address),
        by_pace=layers.balanced,
    )


def _serve(settings: Settings, connect: Callable[[str], Echo], *, balanced: bool) -> int:
    configure(settings.log.level)
    if settings.workers > 1:
        from gateway.workers.supervisor import Supervisor

        command = (sys.executable, "-m", "loadtest.bench.echo", "--worker")
        return Supervisor(settings, reload=lambda: settings, command=command).run()
    gc.disable()
    from gateway.process import run

    run(settings, connect=lambda name, _: _balanced(settings, connect, name) if balanced else connect(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
