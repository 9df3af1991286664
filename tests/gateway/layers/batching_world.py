"""A batching layer over a model on simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from prometheus_client import CollectorRegistry

from gateway.layers.batching import Batching
from gateway.layers.lane import Batch
from gateway.layers.queue import Limits
from gateway.metrics import Metrics
from gateway.types import InferRequest, InferResponse
from tests.fakes.doubling import Doubling, ask
from tests.fakes.simulated import simulate

ROWS = Limits(max_rows=64, max_bytes=1 << 20)


class World:
    """A layer over a model that is known to have independent rows, unless ``trusted`` is False."""

    def __init__(
        self,
        model: Doubling | None = None,
        *,
        limits: Limits = ROWS,
        in_flight: int | None = None,
        trusted: bool = True,
    ) -> None:
        self.model = model or Doubling()
        self.registry = CollectorRegistry()
        batch = Batch(limits, in_flight)
        self.layer = Batching(
            self.model, metadata=self.model.known, metrics=Metrics(self.registry), default=batch, models={"off": None}
        )
        self._trusted = trusted

    async def start(self) -> None:
        if not self._trusted:
            return
        count = 1 + (self.model.parallelism if self.layer._default is None else 8)
        await asyncio.gather(*(self.layer.infer(ask(1.0)) for _ in range(count)))
        await asyncio.sleep(1)
        self.model.asked.clear()
        self.model.rows_answered = 0

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        async def whole() -> None:
            await self.start()
            await test
            await asyncio.sleep(1)  # a trial may be on its way
            assert self.layer.idle
            assert not self.model.in_flight

        simulate(whole())

    def send(self, request: InferRequest) -> asyncio.Task[InferResponse]:
        return asyncio.create_task(self.layer.infer(request))

    def sizes(self) -> list[int]:
        return [request.rows for request in self.model.asked]


def values(response: InferResponse) -> list[float]:
    (tensor,) = response.outputs
    return [float(value) for value in tensor.data[:, 0]]
