"""What waits for its turn, and which of it goes out together: decided purely, with the time as an argument."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import inf

from gateway.types import InferRequest, InferResponse


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one batch; ``max_bytes`` holds for its inputs and for its outputs. A request above them goes alone."""

    max_rows: int = 64
    max_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of the model's runs: seconds and bytes of output for each row, 0 where nothing is known."""

    seconds_per_row: float = 0.0
    bytes_per_row: float = 0.0

    def after(self, *, rows: int, seconds: float, output_bytes: int) -> Pace:
        """With one more run. Large runs weigh more: what a row costs shows in them, what a call costs in small ones."""
        weight = rows / (rows + 8)
        seconds_per_row = self.seconds_per_row + weight * (seconds / rows - self.seconds_per_row)
        # The largest row is the one that must not burst a batch.
        return Pace(seconds_per_row, max(self.bytes_per_row, output_bytes / rows))


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue, and the future that its caller awaits."""

    request: InferRequest
    group: Hashable
    size_bytes: int
    since: float
    answer: asyncio.Future[InferResponse]
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.request.rows

    @property
    def deadline(self) -> float:
        return inf if self.request.deadline is None else self.request.deadline


class Queue:
    """First come, first served, in groups: only requests of one group fit into one batch. Groups take turns."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, dict[Waiting, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, waiting: Waiting) -> None:
        self._groups.setdefault(waiting.group, {})[waiting] = None

    def discard(self, waiting: Waiting) -> None:
        """Takes out what nobody waits for any more; nothing where it has left already."""
        group = self._groups.get(waiting.group, {})
        group.pop(waiting, None)
        if not group:
            self._groups.pop(waiting.group, None)

    def take(self, now: float, *, limits: Limits, pace: Pace) -> tuple[list[Waiting], list[Waiting]]:
        """The next batch, and what it is too late for. The batch is empty where all of the next group is too late.

        It grows while it keeps to ``limits``, and while the time that its rows should take ends before the earliest
        deadline in it.
        """
        key, group = next(iter(self._groups.items()))
        batch: list[Waiting] = []
        expired: list[Waiting] = []
        rows, size_bytes, earliest = 0, 0, inf
        for waiting in group:
            if waiting.deadline <= now:
                expired.append(waiting)
                continue
            rows += waiting.rows
            size_bytes += waiting.size_bytes
            earliest = min(earliest, waiting.deadline)
            fits = (
                rows <= limits.max_rows
                and max(size_bytes, rows * pace.bytes_per_row) <= limits.max_bytes
                and now + rows * pace.seconds_per_row <= earliest
            )
            if batch and not fits:
                break
            batch.append(waiting)
        for waiting in (*batch, *expired):
            del group[waiting]
        del self._groups[key]
        if group:
            self._groups[key] = group
        return batch, expired
