"""Callers that do nothing wrong, in a process of their own: ``python -m tests.security.siege.bystanders ORDER``.

They are an open loop: each call has a time at which it is due, whatever became of those before, and its latency counts
from then. Each call is written to standard output as a line: when it was due (`time.monotonic`), its lane, its outcome
and its latency in seconds. An outcome is HTTP's status, gRPC's code, or the name of what broke.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import grpc
import grpc.aio
import uvloop

from tests.security import doors
from tests.security.door import BODY, MODEL

_SECONDS = 10.0
_V2 = f"/v2/models/{MODEL}/infer"
_TF = f"/v1/models/{MODEL}:predict"
_INSTANCES = b'{"instances":[[1.0]]}'
_ROWS = b'{"x":[[1.0]]}'
_CHECK = "/grpc.health.v1.Health/Check"
_GRPC_V2 = "/inference.GRPCInferenceService/ModelInfer"
_GRPC_TF = "/tensorflow.serving.PredictionService/Predict"
_GRPC_TS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

#: Asked more often than the rest, since what stalls the event loop is seen by it first.
PULSE = "pulse"


@dataclass(frozen=True)
class Order:
    """Whom to call, and as whom."""

    http: int
    grpc: int
    admin: int
    key: str

    @classmethod
    def of(cls, text: str) -> Order:
        return cls(**json.loads(text))


@dataclass
class Connections:
    """Kept HTTP connections to one port, as many as calls overlap."""

    port: int
    key: str
    kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, method: str, target: str, body: bytes, *, keep: bool) -> str:
        """The status. A kept connection that turns out to be closed counts: bystanders are not idle for long."""
        reader, writer = self.kept.pop() if keep and self.kept else await self._open()
        try:
            lines = (
                f"{method} {target} HTTP/1.1",
                "Host: localhost",
                f"x-api-key: {self.key}",
                "content-type: application/json",
                f"Content-Length: {len(body)}",
                *(() if keep else ("Connection: close",)),
            )
            writer.write("\r\n".join((*lines, "", "")).encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            status, _, fields = head.lower().partition(b"\r\n")
            length = fields.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or b"0"))
            if keep and b"connection: close" not in fields:
                self.kept.append((reader, writer))
                writer = None
            return status.split()[1].decode()
        finally:
            if writer is not None:
                writer.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


Ask = Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Lane:
    """Calls of one kind, ``rate`` of them a second."""

    name: str
    rate: float
    ask: Ask


def lanes(order: Order) -> list[Lane]:
    """Every dialect over both protocols, on kept and on new connections, and what probes ask."""
    http, admin = Connections(order.http, order.key), Connections(order.admin, order.key)
    channel = _channel(order.grpc)

    def rest(name: str, rate: float, method: str, target: str, body: bytes = b"", *, keep: bool = True) -> Lane:
        return Lane(name, rate, lambda: http.ask(method, target, body, keep=keep))

    def call(name: str, rate: float, method: str, message: bytes = b"", *, new: bool = False) -> Lane:
        async def ask() -> str:
            used = _channel(order.grpc) if new else channel
            try:
                await used.unary_unary(method)(message, timeout=_SECONDS, metadata=(("x-api-key", order.key),))
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
            finally:
                if new:
                    await used.close()
            return "200"

        return Lane(name, rate, ask)

    infer = doors.infer(MODEL).SerializeToString()
    return [
        rest(PULSE, 60, "GET", "/v2/health/live"),
        rest("v2 REST", 20, "POST", _V2, BODY),
        rest("v2 REST, new connection", 5, "POST", _V2, BODY, keep=False),
        rest("TF Serving REST", 4, "POST", _TF, _INSTANCES),
        rest("TF Serving REST, new connection", 2, "POST", _TF, _INSTANCES, keep=False),
        rest("TorchServe REST", 4, "POST", f"/predictions/{MODEL}", _ROWS),
        rest("health, new connection", 4, "GET", "/v2/health/ready", keep=False),
        Lane("healthz", 4, lambda: admin.ask("GET", "/healthz", b"", keep=True)),
        Lane("healthz, new connection", 4, lambda: admin.ask("GET", "/healthz", b"", keep=False)),
        call("v2 gRPC", 12, _GRPC_V2, infer),
        call("v2 gRPC, new connection", 3, _GRPC_V2, infer, new=True),
        call("TF Serving gRPC", 3, _GRPC_TF, doors.predict(MODEL).SerializeToString()),
        call("TorchServe gRPC", 3, _GRPC_TS, doors.predictions(MODEL).SerializeToString()),
        call("gRPC health", 5, _CHECK),
        call("gRPC health, new connection", 2, _CHECK, new=True),
    ]


def _channel(port: int) -> grpc.aio.Channel:
    # A bystander does not hide a refusal by asking once more.
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)


async def _one(lane: Lane, due: float) -> None:
    try:
        async with asyncio.timeout(_SECONDS):
            outcome = await lane.ask()
    except Exception as error:
        outcome = type(error).__name__
    print(json.dumps([round(due, 4), lane.name, outcome, round(monotonic() - due, 5)]), flush=True)


async def _keep(lane: Lane, begin: float) -> None:
    calls: set[asyncio.Task[None]] = set()
    for number in itertools.count():
        due = begin + number / lane.rate
        await asyncio.sleep(max(0.0, due - monotonic()))
        call = asyncio.create_task(_one(lane, due))
        calls.add(call)
        call.add_done_callback(calls.discard)


async def _until_told(order: Order) -> None:
    asked = lanes(order)
    for lane in asked:
        await lane.ask()
    print(json.dumps(["ready"]), flush=True)
    begin = monotonic() + 0.1
    # Not all at the same moment: that would be a burst of our own.
    keeping = [asyncio.create_task(_keep(lane, begin + 0.013 * number)) for number, lane in enumerate(asked)]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in keeping:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*keeping)


if __name__ == "__main__":
    uvloop.run(_until_told(Order.of(sys.argv[1])))
