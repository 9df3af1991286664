"""A batching layer over a model on simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from prometheus_client import CollectorRegistry

from gateway.layers.batching import Batching
from gateway.layers.independence import Operator
from gateway.layers.lane import Batch
from gateway.layers.queue import Limits
from gateway.metrics import Metrics
from gateway.types import InferRequest, InferResponse, Rows
from tests.fakes.doubling import Doubling, ask
from tests.fakes.simulated import simulate

ROWS = Limits(max_rows=64, max_bytes=1 << 20)


class World:
    """A layer over a model whose artifact says that its rows are independent.

    ``said`` is the operator's word. Batches are asked again where ``sample_share`` says so: not at all by default.
    """

    def __init__(
        self,
        model: Doubling | None = None,
        *,
        limits: Limits = ROWS,
        in_flight: int | None = None,
        said: Rows | None = None,
        sample_share: float = 0.0,
    ) -> None:
        self.model = model or Doubling()
        self.registry = CollectorRegistry()
        batch = Batch(limits, in_flight, Operator(said), sample_share)
        self.layer = Batching(
            self.model, metadata=self.model.known, metrics=Metrics(self.registry), default=batch, models={"off": None}
        )

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        async def whole() -> None:
            await test
            await asyncio.sleep(1)  # a sample may be on its way
            assert self.layer.idle
            assert not self.model.in_flight

        simulate(whole())

    def send(self, request: InferRequest) -> asyncio.Task[InferResponse]:
        return asyncio.create_task(self.layer.infer(request))

    async def ask_all(self, *of: float) -> list[list[float]]:
        """The answers to requests of one row each, which come at the same time."""
        return [values(answer) for answer in await asyncio.gather(*(self.layer.infer(ask(value)) for value in of))]

    def sizes(self) -> list[int]:
        return [request.rows for request in self.model.asked]

    def count(self, name: str, version: int = 1) -> float:
        labels = {"model": "m", "variant": "v", "version": str(version)}
        return self.registry.get_sample_value(f"duet_batching_{name}_total", labels) or 0.0

    def told(self, version: int = 1, signature: str = "f") -> dict[str, Any]:
        """What operators are told of it."""
        found: dict[str, Any] = self.layer.state(["m"])["m"][str(version)][signature]
        return found


def values(response: InferResponse) -> list[float]:
    (tensor,) = response.outputs
    return [float(value) for value in tensor.data[:, 0]]
