"""What callers have used, in memory that the workers of one gateway share: one record a caller.

Layout of a record: 16 bytes of the caller's hash, tokens left and when they were counted (doubles, seconds of the
machine's monotonic clock), the day and what was used on it (elements, bytes), and the requests in flight by worker.
Records are found by their hash, in `_PROBES` places; where all are taken, the one that was used last longest ago goes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Protocol

_RECORDS = 4096
_PROBES = 32
_HEAD = struct.Struct("=16sddIQQ")
_COUNT = struct.Struct("=I")
_EMPTY = bytes(16)


class Lock(Protocol):
    def acquire(self) -> None: ...

    def release(self) -> None: ...


class _NoLock:
    """One process with one event loop: nobody comes in between."""

    def acquire(self) -> None:
        pass

    def release(self) -> None:
        pass


class _FileLock:
    """Held for microseconds. The kernel lets go of it where its owner dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def acquire(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


@dataclass(slots=True)
class Record:
    """A caller's, as it is read and written under the lock. ``day`` counts from the epoch."""

    tokens: float
    at: float
    day: int
    elements: int
    bytes: int


class Ledger:
    """``places`` is how many workers there may be, ``place`` which of them this is. See `alone` and `shared`."""

    def __init__(self, memory: bytearray | mmap.mmap, lock: Lock, *, places: int = 1, place: int = 0) -> None:
        self._memory = memory
        self.lock = lock
        self._counts = struct.Struct(f"={places}I")
        self._place = place
        self._size = _size(places)
        self._known: dict[str, tuple[int, bytes]] = {}

    @classmethod
    def alone(cls) -> Ledger:
        return cls(bytearray(_RECORDS * _size(1)), _NoLock())

    @classmethod
    def shared(cls, path: Path, *, places: int, place: int, running: Collection[int]) -> Ledger:
        """On a file that the other workers map too; what those that are not ``running`` left in flight is forgotten."""
        # Never closed: a process that closes any descriptor of a file loses its locks on it.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        size = _RECORDS * _size(places)
        lock = _FileLock(descriptor)
        lock.acquire()
        try:
            os.ftruncate(descriptor, size)
            ledger = cls(mmap.mmap(descriptor, size), lock, places=places, place=place)
            ledger._forget(set(range(places)) - set(running) | {place})
        finally:
            lock.release()
        return ledger

    def find(self, caller: str, now: float) -> int:
        """Where the caller's record begins; a new one where it has none, with all tokens. Under the lock."""
        offset, key = self._known.get(caller, (-1, _EMPTY))
        if offset >= 0 and self._memory[offset : offset + 16] == key:
            return offset
        key = blake2b(caller.encode(), digest_size=16).digest()
        first = int.from_bytes(key[:4], "little")
        offsets = [(first + probe) % _RECORDS * self._size for probe in range(_PROBES)]
        taken = [bytes(self._memory[offset : offset + 16]) for offset in offsets]
        offset = next((at for at, owner in zip(offsets, taken, strict=True) if owner == key), -1)
        if offset < 0:
            free = [at for at, owner in zip(offsets, taken, strict=True) if owner == _EMPTY]
            offset = free[0] if free else min(offsets, key=lambda at: self.read(at).at)
            unused = _HEAD.pack(key, inf, now, 0, 0, 0)
            self._memory[offset : offset + self._size] = unused + bytes(self._size - _HEAD.size)
        if len(self._known) >= _RECORDS:
            self._known.clear()
        self._known[caller] = (offset, key)
        return offset

    def read(self, offset: int) -> Record:
        return Record(*_HEAD.unpack_from(self._memory, offset)[1:])

    def write(self, offset: int, record: Record) -> None:
        key = bytes(self._memory[offset : offset + 16])
        _HEAD.pack_into(self._memory, offset, key, record.tokens, record.at, record.day, record.elements, record.bytes)

    def in_flight(self, offset: int) -> int:
        """Over all workers."""
        return sum(self._counts.unpack_from(self._memory, offset + _HEAD.size))

    def add_in_flight(self, offset: int, change: int) -> None:
        at = offset + _HEAD.size + _COUNT.size * self._place
        _COUNT.pack_into(self._memory, at, max(0, _COUNT.unpack_from(self._memory, at)[0] + change))

    def _forget(self, places: Collection[int]) -> None:
        for number in range(_RECORDS):
            begin = number * self._size
            if self._memory[begin : begin + 16] != _EMPTY:
                for place in places:
                    _COUNT.pack_into(self._memory, begin + _HEAD.size + _COUNT.size * place, 0)


def _size(places: int) -> int:
    return _HEAD.size + _COUNT.size * places
