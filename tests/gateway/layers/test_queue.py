from __future__ import annotations

import asyncio
from collections.abc import Hashable
from math import inf

from gateway.layers.queue import Limits, Pace, Queue, Waiting
from tests.fakes.doubling import ask
from tests.fakes.simulated import simulate

WIDE = Limits(max_rows=1000, max_bytes=1 << 30)


def waiting(rows: int, *, group: Hashable = "g", size_bytes: int = 4, deadline: float = inf) -> Waiting:
    request = ask(*[1.0] * rows, deadline=None if deadline == inf else deadline)
    future = asyncio.get_running_loop().create_future()
    return Waiting(request, group, size_bytes, 0.0, future)


def taken(
    *entries: Waiting, now: float = 0.0, limits: Limits = WIDE, pace: Pace | None = None
) -> tuple[list[int], list[int]]:
    """Places of what the first batch holds and of what came too late."""
    queue = Queue()
    for entry in entries:
        queue.add(entry)
    batch, expired = queue.take(now, limits=limits, pace=pace or Pace())
    return [entries.index(entry) for entry in batch], [entries.index(entry) for entry in expired]


def test_a_batch_takes_what_waits_in_its_order() -> None:
    async def run() -> None:
        assert taken(waiting(1), waiting(2), waiting(3)) == ([0, 1, 2], [])

    simulate(run())


def test_a_batch_keeps_to_its_rows_and_bytes() -> None:
    async def run() -> None:
        assert taken(waiting(2), waiting(2), waiting(1), limits=Limits(4, 1 << 20)) == ([0, 1], [])
        sized = [waiting(1, size_bytes=100) for _ in range(3)]
        assert taken(*sized, limits=Limits(64, 250)) == ([0, 1], [])
        assert taken(*[waiting(1) for _ in range(3)], limits=Limits(64, 250), pace=Pace(0, 100)) == ([0, 1], [])

    simulate(run())


def test_a_batch_grows_no_longer_than_its_earliest_deadline_allows() -> None:
    async def run() -> None:
        entries = [waiting(1), waiting(1, deadline=2.5), waiting(1), waiting(1)]
        assert taken(*entries, pace=Pace(seconds_per_row=1.0)) == ([0, 1], [])

    simulate(run())


def test_what_is_too_late_is_told_apart() -> None:
    async def run() -> None:
        assert taken(waiting(1, deadline=1.0), waiting(1), now=1.0) == ([1], [0])

    simulate(run())


def test_groups_do_not_mix_and_take_turns() -> None:
    async def run() -> None:
        queue = Queue()
        for group in "aab":
            queue.add(waiting(1, group=group))
        order = []
        while queue:
            batch, _ = queue.take(0.0, limits=Limits(1, 1 << 20), pace=Pace())
            order.append(batch[0].group)
        assert order == ["a", "b", "a"]

    simulate(run())


def test_what_is_discarded_leaves_nothing_behind() -> None:
    async def run() -> None:
        queue, entry = Queue(), waiting(1)
        queue.add(entry)
        queue.discard(entry)
        queue.discard(entry)
        assert not queue

    simulate(run())


def test_a_large_run_tells_more_of_a_row_than_a_small_one() -> None:
    small = Pace().after(rows=1, seconds=1.0, output_bytes=8)
    large = Pace().after(rows=64, seconds=64.0, output_bytes=8)
    assert 0 < small.seconds_per_row < large.seconds_per_row <= 1.0
    assert (small.bytes_per_row, large.bytes_per_row) == (8, 0.125)
