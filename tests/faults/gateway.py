"""The gateway's own process, but that names of servers are looked up in a file, so that addresses can come and go.

Beside it lies how many tasks the event loop had at the last look-up: a leak shows there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import grpc.aio  # noqa: F401 - loaded before the clock is taken from the others


def _jump_with(shift: Path) -> None:
    """SIGUSR1 sets the wall clock, as every module of the gateway sees it, off by as many seconds as the file says.

    gRPC keeps the system's: it hands wall-clock times to its C core, which reads that clock itself.
    """
    real, shifted = time.time, [0.0]
    for_grpc = types.ModuleType("time")
    vars(for_grpc).update(vars(time))
    for name, module in list(sys.modules.items()):
        if name.startswith("grpc") and getattr(module, "time", None) is time:
            module.time = for_grpc  # type: ignore[attr-defined]

    def jump(*_: object) -> None:
        shifted[0] = float(shift.read_text())

    time.time = lambda: real() + shifted[0]
    signal.signal(signal.SIGUSR1, jump)


def main(config: Path, hosts: Path) -> None:
    gc.disable()
    _jump_with(config.with_suffix(".shift"))
    # Imported now, so that they see the clock that jumps.
    from gateway.config import load
    from gateway.logging import configure
    from gateway.process import run
    from tests.faults.without import WITHOUT, take_away

    take_away(os.environ.get(WITHOUT, ""))
    settings = load(config, os.environ)
    configure(settings.log.level)
    tasks = hosts.with_suffix(".tasks")

    async def resolve(host: str, port: int) -> list[str]:
        tasks.write_text(str(len(asyncio.all_tasks())))
        known: dict[str, list[str]] = json.loads(hosts.read_text())  # noqa: ASYNC240 - a few bytes
        return known.get(host, [host])

    run(settings, resolve=resolve)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
