"""Open-loop load in the test's own event loop: requests go out at their times, whatever became of those before.

Every answer is checked against its request (`echo`). Latency counts from the time at which a request was meant to be
sent; by how much this process was late itself is kept too, since on a busy machine that is not the gateway's doing.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any

import orjson

from gateway.protos import v2_pb2
from loadtest.generator.grpc_calls import GrpcTarget
from loadtest.generator.http1 import HttpTarget, Reply, message
from loadtest.recorder import OK
from tests.faults import echo

_GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
#: Beyond its deadline a call may take this long before it counts as lost.
_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """``outcome``: ok, wrong, lost (no answer), or what the gateway said instead: a status or a code."""

    at: float
    seconds: float
    late_seconds: float
    outcome: str
    front: str
    text: str = ""


@dataclass
class Window:
    samples: list[Sample] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return len(self.samples)

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(sample.outcome for sample in self.samples)

    @property
    def success(self) -> float:
        return self.outcomes["ok"] / max(1, self.sent)

    @property
    def failed(self) -> int:
        return self.sent - self.outcomes["ok"]

    def quantile(self, share: float, *outcomes: str) -> float:
        """Seconds; of all outcomes where none is named. 0 for nothing."""
        return _quantile([s.seconds for s in self.samples if not outcomes or s.outcome in outcomes], share)

    @property
    def late(self) -> float:
        """By how much the load itself was late, its 99th percentile: the machine's share in any latency."""
        return _quantile([sample.late_seconds for sample in self.samples], 0.99)

    def of(self, front: str) -> Window:
        return Window([sample for sample in self.samples if sample.front == front])

    def texts(self) -> list[str]:
        return sorted({sample.text for sample in self.samples if sample.text})[:5]


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else 0.0


class Load:
    """``rate`` requests a second over each of ``fronts``, until `stop`. Counters tell how far it is."""

    def __init__(
        self,
        ports: dict[str, int],
        *,
        rate: float,
        model: str = "echo",
        version: int | None = None,
        deadline_seconds: float = 1.0,
        fronts: Iterable[str] = ("rest", "grpc"),
        criticality: str = "",
        rows: int = 64,
    ) -> None:
        self.sent = 0
        self.samples: list[Sample] = []
        self.versions: Counter[int] = Counter()
        self._rate = rate
        self._deadline_seconds = deadline_seconds
        self._rows = echo.rows(rows, seed=rows)
        self._pinned = version
        self._expecting: list[tuple[int, asyncio.Future[None]]] = []
        self._open: set[asyncio.TimerHandle] = set()
        self._rng = random.Random(1)
        headers = {"x-duet-timeout-ms": str(round(deadline_seconds * 1e3))} | (
            {"x-duet-criticality": criticality} if criticality else {}
        )
        made: dict[str, Callable[[], HttpTarget | GrpcTarget]] = {
            "rest": lambda: self._http(ports["http"], model, headers),
            "grpc": lambda: self._grpc(ports["grpc"], model, headers),
        }
        self.targets = {front: made[front]() for front in fronts}
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        for target in self.targets.values():
            await target.connect(8)
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Sends no more, and waits for what is due."""
        if self._running is not None:
            self._running.cancel()
            self._running = None
            while self._open:  # noqa: ASYNC110 - the hot path sets no event
                await asyncio.sleep(0.01)
            for target in self.targets.values():
                target.close()
                if isinstance(target, GrpcTarget):
                    await target.aclose()

    def pause(self) -> None:
        """Sends no more, and waits for nothing."""
        if self._running is not None:
            self._running.cancel()

    async def answered(self, count: int) -> None:
        """Waits until ``count`` more answers, or failures, have come: what a fault is timed by."""
        turn = asyncio.get_running_loop().create_future()
        self._expecting.append((len(self.samples) + count, turn))
        await turn

    async def seconds(self, seconds: float) -> None:
        """As long as that many seconds' worth of answers takes."""
        await self.answered(max(1, round(seconds * self._rate * len(self.targets))))

    @property
    def mark(self) -> int:
        return len(self.samples)

    def window(self, begin: int = 0, end: int | None = None) -> Window:
        """The requests that ended between two marks."""
        return Window(self.samples[begin:end])

    async def _run(self) -> None:
        begun = perf_counter()
        due, number = begun, 0
        fronts = list(self.targets)
        step = 1 / (self._rate * len(fronts))
        while True:
            now = perf_counter()
            if due > now:
                await asyncio.sleep(due - now)
            front = fronts[number % len(fronts)]
            self._send(front, self._rng.randrange(len(self._rows)), due)
            number += 1
            due += self._rng.uniform(0.5, 1.5) * step

    def _send(self, front: str, payload: int, due: float) -> None:
        self.sent += 1
        late = perf_counter() - due
        loop = asyncio.get_running_loop()
        state: dict[str, Any] = {}

        def done(reply: Reply) -> None:
            timer = state.pop("timer", None)
            if timer is None:
                return  # counted as lost already
            timer.cancel()
            self._open.discard(timer)
            outcome = self._judged(front, payload, reply)
            text = "" if outcome == "ok" else reply.text
            self._count(Sample(due, perf_counter() - due, late, outcome, front, text))

        def lost() -> None:
            self._open.discard(state.pop("timer"))
            state["abandon"]()
            self._count(Sample(due, perf_counter() - due, late, "lost", front, "no answer"))

        timer = state["timer"] = loop.call_later(self._deadline_seconds + _GRACE_SECONDS, lost)
        self._open.add(timer)
        state["abandon"] = self.targets[front].send(payload, done)

    def _judged(self, front: str, payload: int, reply: Reply) -> str:
        if reply.status != OK:
            first = reply.text.partition(" ")[0]
            return first if first.isdigit() or first.isupper() else "lost"
        version, y, h = _read_json(reply.body) if front == "rest" else _read_message(reply.body)
        self.versions[version] += 1
        right = echo.is_right(self._rows[payload], version, y, h) and self._pinned in (None, version)
        return "ok" if right else "wrong"

    def _count(self, sample: Sample) -> None:
        self.samples.append(sample)
        reached = [entry for entry in self._expecting if entry[0] <= len(self.samples)]
        for entry in reached:
            self._expecting.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    def _http(self, port: int, model: str, headers: dict[str, str]) -> HttpTarget:
        version = f"/versions/{self._pinned}" if self._pinned else ""
        path = f"/v2/models/{model}{version}/infer"
        headers = {"content-type": "application/json", **headers}
        bodies = [orjson.dumps({"inputs": [_tensor(row)]}) for row in self._rows]
        return HttpTarget("127.0.0.1", port, [message("127.0.0.1", port, path, headers, body) for body in bodies])

    def _grpc(self, port: int, model: str, headers: dict[str, str]) -> GrpcTarget:
        bodies = []
        for row in self._rows:
            request = v2_pb2.ModelInferRequest(model_name=model, model_version=str(self._pinned or ""))
            tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, echo.WIDTH])
            tensor.contents.fp32_contents.extend(row)
            bodies.append(request.SerializeToString())
        headers = {name: value for name, value in headers.items() if name != "x-duet-timeout-ms"}
        return GrpcTarget("127.0.0.1", port, _GRPC_METHOD, headers, bodies, timeout_seconds=self._deadline_seconds)


class ClosedLoad(Load):
    """``callers`` that each send their next request when the last one has ended, by the fronts in turn.

    The ``rate`` is what is expected of all of them: `seconds` counts by it.
    """

    def __init__(self, ports: dict[str, int], *, callers: int, rate: float, **others: Any) -> None:
        super().__init__(ports, rate=rate, **others)
        self._callers = callers
        self._turn = 0

    async def _run(self) -> None:
        for _ in range(self._callers):
            self._next()
        await asyncio.get_running_loop().create_future()

    def _next(self) -> None:
        self._turn += 1
        fronts = list(self.targets)
        self._send(fronts[self._turn % len(fronts)], self._rng.randrange(len(self._rows)), perf_counter())

    def _count(self, sample: Sample) -> None:
        super()._count(sample)
        if self._running is not None and not self._running.done():
            # In a turn of its own: the connection is free again only after this.
            asyncio.get_running_loop().call_soon(self._next)


def _tensor(row: tuple[float, ...]) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, echo.WIDTH], "data": row}


def _read_json(body: bytes) -> tuple[int, list[float], list[int]]:
    answer = orjson.loads(body)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    return int(answer["model_version"]), outputs["y"], outputs["h"]


def _read_message(body: bytes) -> tuple[int, list[float], list[int]]:
    answer = v2_pb2.ModelInferResponse.FromString(body)
    found: dict[str, list[Any]] = {}
    for place, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            raw = memoryview(answer.raw_output_contents[place])
            found[output.name] = list(raw.cast("f" if output.datatype == "FP32" else "q"))
        else:
            contents = output.contents
            found[output.name] = list(contents.fp32_contents or contents.int64_contents)
    return int(answer.model_version), found["y"], found["h"]
