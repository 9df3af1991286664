"""Every request as it was, in nanoseconds: one file per block and worker. Locust's own statistics round."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLUMNS = 6
OK, FAILED, TIMED_OUT, DROPPED = 0, 1, 2, 3

Times = NDArray[np.int64]


class Recorder:
    """Gathers the requests of one block. Times are those of ``time.perf_counter_ns``, one clock for all processes."""

    def __init__(self) -> None:
        self._rows = array("q")

    def add(self, intended: int, sent: int, ended: int, status: int, size: int, payload: int = 0) -> None:
        """``status`` is OK, FAILED, TIMED_OUT or DROPPED; ``size`` the answer's bytes."""
        self._rows.extend((intended, sent, ended, status, size, payload))

    def write(self, path: Path) -> None:
        """All of the file or nothing of it. Raises OSError."""
        beside = path.with_name(f".{path.name}.new")
        try:
            with beside.open("wb") as file:
                np.save(file, np.frombuffer(self._rows, np.int64).reshape(-1, COLUMNS))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Block:
    """Requests of one block, one array a column, in the order of their intended times."""

    intended: Times
    sent: Times
    ended: Times
    status: Times
    size: Times
    payload: Times

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Block:
        """The files of all workers as one block. Raises OSError, ValueError for a file that is none."""
        rows = np.concatenate([np.load(path).reshape(-1, COLUMNS) for path in paths])
        return cls(*rows[np.argsort(rows[:, 0], kind="stable")].T)

    def __len__(self) -> int:
        return len(self.intended)

    def after(self, seconds: float) -> Block:
        """Without the requests that were meant for the first ``seconds``: the warm-up."""
        if not len(self):
            return self
        return self._where(self.intended >= self.intended[0] + round(seconds * 1e9))

    def without_dropped(self) -> Block:
        return self._where(self.status != DROPPED)

    def _where(self, kept: NDArray[np.bool_]) -> Block:
        return Block(*(getattr(self, name)[kept] for name in self.__slots__))

    @property
    def failed(self) -> NDArray[np.bool_]:
        return self.status != OK

    @property
    def seconds(self) -> float:
        return float(self.ended.max() - self.intended[0]) / 1e9 if len(self) else 0.0

    def latencies_ms(self, timeout_seconds: float) -> NDArray[np.float64]:
        """From the intended time of sending to the last byte. What failed counts as the time-out, never as quick."""
        measured = (self.ended - self.intended) / 1e6
        return np.where(self.failed, np.maximum(measured, timeout_seconds * 1e3), measured)

    @property
    def lags_ms(self) -> NDArray[np.float64]:
        """How late each request went out: the generator's own fault, or that of what held it up."""
        return (self.sent - self.intended) / 1e6

    @property
    def service_ms(self) -> NDArray[np.float64]:
        """From the actual sending to the last byte."""
        return (self.ended - self.sent) / 1e6
