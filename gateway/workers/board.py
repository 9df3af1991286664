"""What the workers of one gateway tell each other: a few words of memory that all of them map, in the run's folder.

Each worker writes its own place, the supervisor every place; everyone reads all. Nobody waits for anybody, so a worker
can answer for the whole without asking the others.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path


class State(IntEnum):
    EMPTY = 0
    STARTING = 1
    #: It serves, but none of its models is ready.
    SERVING = 2
    READY = 3
    LEAVING = 4


class Board:
    """``places`` is one more than there are workers: while one is replaced, its successor has a place of its own.

    The file holds the places, each a state, a process id and a count of signs of life, and before them whether the
    whole is about to stop.
    """

    _HEAD = struct.Struct("=Q")
    _PLACE = struct.Struct("=III")

    def __init__(self, folder: Path, *, workers: int) -> None:
        self._folder = folder
        self._workers = workers
        self.places = workers + 1
        size = self._HEAD.size + self.places * self._PLACE.size
        with (folder / "board").open("a+b") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)

    @property
    def draining(self) -> bool:
        return bool(self._HEAD.unpack_from(self._memory)[0])

    def drain(self) -> None:
        self._HEAD.pack_into(self._memory, 0, 1)

    def write(self, place: int, state: State, pid: int) -> None:
        """It is a sign of life too."""
        beat = (self.beat(place) + 1) & 0xFFFFFFFF
        self._PLACE.pack_into(self._memory, self._HEAD.size + place * self._PLACE.size, state, pid, beat)

    def clear(self, place: int) -> None:
        """For a worker that has ended. What its gauges said is no more; its counters stay, and go on in the place."""
        self.write(place, State.EMPTY, 0)
        for path in self._folder.glob(f"gauge_live*_{place}.db"):
            path.unlink()

    def state(self, place: int) -> State:
        return State(self._read(place)[0])

    def beat(self, place: int) -> int:
        """Changes with each sign of life."""
        return self._read(place)[2]

    def running(self) -> Iterator[tuple[int, int]]:
        """Place and process id of each worker that there is."""
        for place in range(self.places):
            state, pid, _ = self._read(place)
            if state != State.EMPTY:
                yield place, pid

    def ready(self) -> bool:
        """As many workers are ready as there should be, and nobody told them to stop.

        All of them, because the kernel gives a share of the new connections to each, whether it is ready or not.
        """
        ready = sum(self.state(place) is State.READY for place in range(self.places))
        return not self.draining and ready >= self._workers

    def free_place(self) -> int:
        """Raises LookupError where none is."""
        for place in range(self.places):
            if self.state(place) is State.EMPTY:
                return place
        raise LookupError("all places are taken")

    def _read(self, place: int) -> tuple[int, int, int]:
        state, pid, beat = self._PLACE.unpack_from(self._memory, self._HEAD.size + place * self._PLACE.size)
        return state, pid, beat
