"""What one message costs the gateway's process: processor time of the event loop's longest step, and memory.

Processor time of the one thread, so that a busy machine does not count. Memory is seen in two ways, of which the larger
one counts. The kernel's high-water mark of the process sees all of it, protobuf's arenas and orjson's buffers
among it, but not what fits into memory that was never given back (it is trimmed before). `tracemalloc` sees what Python
and numpy took, byte for byte, though slowly. What a body decoded aside takes there is counted too: both processes are
one here (`fronts.Beside`), and the time of the other one is not the loop's.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
import tracemalloc
from asyncio.events import Handle
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

#: What a message may cost: a step of the loop, and memory beside it. Small ones that are filled may take 8 MiB.
STALL_SECONDS = 0.020
TIMES = 3
ALLOWANCE_BYTES = 8 << 20
#: What the fixed piece of work takes on the machine of which `STALL_SECONDS` is true.
REFERENCE_SECONDS = 0.005

#: Tracing takes many times as long, and what takes long fills memory that the kernel sees.
_TRACED_SECONDS = 0.1

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one message. ``aside_seconds`` is processor time of the decode process."""

    size: int
    seconds: float
    aside_seconds: float
    memory: int

    @property
    def times(self) -> float:
        return self.memory / max(self.size, 1)

    @property
    def memory_share(self) -> float:
        """Of what it may take: above 1 is too much."""
        return self.memory / (TIMES * self.size + ALLOWANCE_BYTES)


class Steps:
    """The steps of an event loop. `aside` leaves out what happens in another process in truth."""

    def __init__(self) -> None:
        self.longest = self.aside = self._out = 0.0

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        start = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - start
            self.aside += spent
            self._out += spent

    @contextmanager
    def watched(self) -> Iterator[None]:
        run = Handle._run

        def timed(handle: Handle) -> None:
            self._out, start = 0.0, time.thread_time()
            run(handle)
            self.longest = max(self.longest, time.thread_time() - start - self._out)

        self.longest = self.aside = 0.0
        Handle._run = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            Handle._run = run  # type: ignore[method-assign]


Once = Callable[[], Awaitable[object]]


def cost(
    once: Once, size: int, steps: Steps, loop: asyncio.AbstractEventLoop, *, closely: bool = False, traced: bool = True
) -> Cost:
    """``closely``: the least time of three, and all that is seen of the memory.

    Not ``traced``: what is taken and never touched does not count, where the kernel tells.
    """
    gc.collect()
    before = _trimmed()
    seconds, aside = _run(once, steps, loop)
    memory = max(0, _high_water() - before) if before else 0
    if closely:
        for _ in range(2):
            again = _run(once, steps, loop)
            seconds, aside = min(seconds, again[0]), min(aside, again[1])
    if (closely and traced and seconds + aside < _TRACED_SECONDS) or not before:
        gc.collect()
        tracemalloc.start()
        _run(once, steps, loop)
        memory = max(memory, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return Cost(size, seconds, aside, memory)


def slowness() -> float:
    """How long this machine takes at present for a fixed piece of work like a decoder's, in the reference's times."""
    return min(_worked() for _ in range(5)) / REFERENCE_SECONDS


def _worked() -> float:
    start = time.thread_time()
    data = bytes(16 << 15)
    found, at = [], 0
    while at < len(data):
        found.append(data[at : at + 16])
        at += 16
    items = np.empty(len(found), np.object_)
    items[:] = found
    sum(map(len, items))
    for _ in range(4):
        np.count_nonzero(np.frombuffer(data, np.uint8) < 0x80)
    return time.thread_time() - start


def _run(once: Once, steps: Steps, loop: asyncio.AbstractEventLoop) -> tuple[float, float]:
    with steps.watched():
        loop.run_until_complete(once())
    return steps.longest, steps.aside


def _trimmed() -> int:
    """The process's memory in bytes, from which its high-water mark counts now; 0 where the kernel tells nothing."""
    try:
        _libc.malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except (OSError, AttributeError):
        return 0
    return _status("VmRSS:")


def _high_water() -> int:
    return _status("VmHWM:")


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
