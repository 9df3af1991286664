"""Calls to a real model behind the gateway, whose answers tell whether they are right."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter

import httpx

from tests.faults.load import Sample, Window

MODEL = "linear_regression"
RATE = 20


@dataclass
class Calls:
    """`RATE` requests a second to one variant, each with a number of its own: x is answered with nearly x - 1.

    A ``version`` pins them to it.
    """

    http_port: int
    variant: str
    version: str = ""
    deadline_seconds: float = 1.0
    samples: list[Sample] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)

    async def __aenter__(self) -> Calls:
        base = f"http://127.0.0.1:{self.http_port}"
        self._client = httpx.AsyncClient(base_url=base, timeout=10)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sending.cancel()
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    async def _send(self) -> None:
        number = 0
        while True:
            number += 1
            task = asyncio.create_task(self._call(float(number % 50)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(1 / RATE)

    async def _call(self, x: float) -> None:
        at = perf_counter()
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [x]}
        pin = f"/versions/{self.version}" if self.version else ""
        path = f"/v2/models/{MODEL}@{self.variant}{pin}/infer"
        headers = {"x-duet-timeout-ms": f"{1000 * self.deadline_seconds:.0f}"}
        try:
            answer = await self._client.post(path, json={"inputs": [tensor]}, headers=headers)
        except httpx.TransportError as error:
            self.samples.append(Sample(at, perf_counter() - at, 0.0, "lost", "rest", str(error)))
            return
        outcome, text = str(answer.status_code), answer.text
        if answer.status_code == 200:
            y = answer.json()["outputs"][0]["data"][0]
            self.versions.add(answer.headers["x-duet-version"])
            outcome, text = ("ok", "") if abs(y - (x - 1)) < 0.5 else ("wrong", answer.text)
        self.samples.append(Sample(at, perf_counter() - at, 0.0, outcome, "rest", text))

    async def well(self) -> bool:
        """Whether the last five were answered."""
        return len(self.samples) > 5 and all(sample.outcome == "ok" for sample in self.samples[-5:])

    async def failing(self) -> bool:
        return len(self.samples) > 5 and all(sample.outcome != "ok" for sample in self.samples[-5:])

    def window(self, begin: int = 0) -> Window:
        return Window(self.samples[begin:])
