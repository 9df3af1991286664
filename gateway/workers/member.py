"""A worker's side: its place among the others, its metrics beside theirs, and what it says for the whole."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, ProcessCollector, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.security.ledger import Shared
from gateway.workers.board import Board, State
from gateway.workers.order import Order

#: How often a worker tells whether it is ready.
_TELL_SECONDS = 0.05


class Member:
    """The worker that has ``order``'s place. Make it before the first metric: metrics then live in the run's folder,

    where each worker can add up all. A place's counters go on where its last owner stopped.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._board = Board(order.folder, workers=order.workers)
        self._telling: asyncio.Task[None] | None = None
        self._leaving = False
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(order.folder)
        values.ValueClass = values.MultiProcessValue(lambda: order.place)  # type: ignore[no-untyped-call]

    @property
    def whole_ready(self) -> bool:
        return self._board.ready()

    @property
    def whole_draining(self) -> bool:
        """False while only this worker is to end, since another takes its place."""
        return self._board.draining

    def exposed(self) -> CollectorRegistry:
        """What `/metrics` shows: the sums over all workers, and each one's process."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._order.folder))  # type: ignore[no-untyped-call]
        registry.register(_Processes(self._board))
        return registry

    def ledger(self) -> Shared:
        """Of the callers' quotas, which the workers share."""
        running = {place for place, _ in self._board.running()}
        path = self._order.folder / "ledger"
        return Shared(path, places=self._board.places, place=self._order.place, running=running)

    def tell(self, ready: Callable[[], bool]) -> None:
        """Keeps the board informed while the event loop moves: the supervisor ends a worker that is silent."""
        self._telling = asyncio.create_task(self._keep_telling(ready))

    def leave(self) -> None:
        self._leaving = True
        self._board.write(self._order.place, State.LEAVING, os.getpid())

    async def _keep_telling(self, ready: Callable[[], bool]) -> None:
        while True:
            state = State.LEAVING if self._leaving else State.READY if ready() else State.SERVING
            self._board.write(self._order.place, state, os.getpid())
            await asyncio.sleep(_TELL_SECONDS)


def when_orphaned(call: Callable[[], None]) -> None:
    """Calls back once the supervisor has ended, however it did: its end of our standard input is closed then."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(descriptor, 1):
            loop.remove_reader(descriptor)
            call()

    loop.add_reader(descriptor, on_readable)


class _Processes(Collector):
    """Memory, processor time and open files of each worker's process, told apart by the label ``worker``."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for place, pid in self._board.running():
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {**sample.labels, "worker": str(place)}, sample.value)
        yield from families.values()
