"""Every request's time in nanoseconds, as it was. Locust's own statistics round it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Recorder:
    """Gathers one block of requests and writes it to a file, for `Block.read`."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, bool]] = []

    def add(self, started: int, ended: int, *, failed: bool) -> None:
        """Times of ``time.perf_counter_ns``."""
        self._rows.append((started, ended, failed))

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.array(self._rows, np.int64).reshape(-1, 3))


@dataclass(frozen=True, slots=True)
class Block:
    """Requests of one block, in the order of their ends; ``started`` and ``ended`` in nanoseconds of one clock."""

    started: NDArray[np.int64]
    ended: NDArray[np.int64]
    failed: NDArray[np.bool_]

    @classmethod
    def read(cls, path: Path) -> Block:
        started, ended, failed = np.load(path).T
        return cls(started, ended, failed.astype(np.bool_))

    def after(self, seconds: float) -> Block:
        """Without the requests that began within ``seconds`` of the first: the warm-up."""
        if not len(self.started):
            return self
        kept = self.started >= self.started.min() + round(seconds * 1e9)
        return Block(self.started[kept], self.ended[kept], self.failed[kept])

    @property
    def seconds(self) -> float:
        return float(self.ended.max() - self.started.min()) / 1e9 if len(self.started) else 0.0

    @property
    def milliseconds(self) -> NDArray[np.float64]:
        return (self.ended - self.started) / 1e6
