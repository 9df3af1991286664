"""``python -m tests.faults.replica``: one server behind the gateway, a process of its own, to be killed or stopped.

It speaks TorchServe's REST or TensorFlow Serving's gRPC, and fails as it is told. Orders come as lines of JSON on
standard input, each a set of `Script`'s fields; each is answered by a line with what was counted so far.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import dataclass, field, fields
from typing import Any

import uvloop


@dataclass
class Script:
    """What the server does. ``fault`` is a name that its wire knows; it hits the next ``hits`` predictions, -1: all.

    Each of ``workers`` works on one prediction at a time, for ``seconds``; as many as ``queue`` may wait for them.
    """

    workers: int = 8
    seconds: float = 0.02
    queue: int = 100
    fault: str = ""
    hits: int = -1
    #: Bytes of an answer that come before it breaks off.
    after_bytes: int = 0
    versions: tuple[int, ...] = (1,)
    idle_seconds: float = 3600.0
    #: TorchServe's key file; each key in it lives so long.
    key_file: str = ""
    key_seconds: float = 3600.0


@dataclass
class Counts:
    predicted: int = 0
    rows: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    given_up: int = 0
    connections: int = 0
    #: gRPC's remaining time of the last calls, in seconds.
    timeouts: list[float] = field(default_factory=list)


class Model:
    """The workers and their queue."""

    age_seconds = 0.0

    def __init__(self) -> None:
        self.script = Script()
        self.counts = Counts()
        self._free = asyncio.Condition()
        self._busy = 0
        self._waiting = 0

    @property
    def full(self) -> bool:
        return self._busy >= self.script.workers and self._waiting >= self.script.queue

    def take(self) -> str:
        """Counts a prediction, and gives the fault that hits it."""
        self.counts.predicted += 1
        script = self.script
        if not script.fault or not script.hits:
            return ""
        script.hits -= script.hits > 0
        return script.fault

    async def work(self) -> None:
        counts = self.counts
        counts.in_flight += 1
        counts.most_in_flight = max(counts.most_in_flight, counts.in_flight)
        try:
            self._waiting += 1
            try:
                async with self._free:
                    await self._free.wait_for(lambda: self._busy < self.script.workers)
                    self._busy += 1
            finally:
                self._waiting -= 1
            try:
                await asyncio.sleep(self.script.seconds)
            finally:
                async with self._free:
                    self._busy -= 1
                    self._free.notify()
        except asyncio.CancelledError:
            counts.given_up += 1
            raise
        finally:
            counts.in_flight -= 1

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        names = {entry.name for entry in fields(Script)}
        for name, value in order.items():
            if name not in names:
                raise KeyError(f"no order {name!r}")
            setattr(self.script, name, value)
        self.counts.timeouts = self.counts.timeouts[-100:]
        return {entry.name: getattr(self.counts, entry.name) for entry in fields(Counts)}


def die() -> None:
    """At once and without a word, as of a segmentation fault."""
    os.kill(os.getpid(), 9)


async def _obey(model: Model) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(model.order(json.loads(line))), flush=True)


async def _serve(kind: str, host: str, port: int, age_seconds: float) -> None:
    model = Model()
    model.age_seconds = age_seconds
    if kind == "torchserve":
        from tests.faults.torchserve import serve
    else:
        from tests.faults.tfserving import serve
    await serve(model, host, port)
    print(json.dumps({"ready": True}), flush=True)
    await _obey(model)  # until whoever started it is gone
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["torchserve", "tfserving"], required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--age-seconds", type=float, default=0.0, help="of a gRPC connection, until it is told to go")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(arguments.kind, arguments.host, arguments.port, arguments.age_seconds))


if __name__ == "__main__":
    main()
