"""What callers have used: in this process's memory, or in memory that the workers of one gateway share.

At most `_RECORDS` callers are counted at a time; of more, those go whose use was longest ago.
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


@dataclass(slots=True)
class Record:
    """A caller's. ``tokens`` were counted ``at`` a time of the machine's clock; ``day`` counts from the epoch."""

    tokens: float
    at: float
    day: int = 0
    elements: int = 0
    bytes: int = 0
    in_flight: int = 0


class Ledger(Protocol):
    """Between `open` and `close` nobody else changes anything."""

    def open(self, caller: str, now: float) -> Record:
        """The caller's record; a new one, with all tokens, where it has none. ``in_flight`` is over all workers."""
        ...

    def close(self, record: Record, started: int = 0) -> None:
        """Keeps the record as it is now, and so many more of this worker's requests in flight."""
        ...

    def release(self) -> None:
        """In place of `close`, where nothing is to be kept."""
        ...


class Alone:
    """One process with one event loop: nobody comes in between."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def open(self, caller: str, now: float) -> Record:
        record = self._records.get(caller)
        if record is None:
            if len(self._records) >= _RECORDS:
                oldest = sorted(self._records, key=lambda name: self._records[name].at)
                for name in oldest[: _RECORDS // 4]:
                    del self._records[name]
            record = self._records[caller] = Record(inf, now)
        return record

    def close(self, record: Record, started: int = 0) -> None:
        if started:
            record.in_flight = max(0, record.in_flight + started)

    def release(self) -> None:
        pass


class Shared:
    """On a file that the other workers map too.

    A record is 16 bytes of the caller's hash, the fields above (=ddIQQ), and each worker's requests in flight (=I). It
    is found by its hash, in `_PROBES` places. The lock is held for microseconds; the kernel lets go of it where its
    owner dies.
    """

    _PROBES = 32
    _HEAD = struct.Struct("=16sddIQQ")
    _COUNT = struct.Struct("=I")
    _EMPTY = bytes(16)

    def __init__(self, path: Path, *, places: int, place: int, running: Collection[int]) -> None:
        """``places`` is how many workers there may be, ``place`` which of them this is.

        What those that are not ``running`` left in flight is forgotten.
        """
        self._counts = struct.Struct(f"={places}I")
        self._size = self._HEAD.size + self._counts.size
        self._place = place
        self._known: dict[str, tuple[int, bytes]] = {}
        self._offset = 0
        # Never closed: a process that closes any descriptor of a file loses its locks on it.
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._lock()
        try:
            os.ftruncate(self._descriptor, _RECORDS * self._size)
            self._memory = mmap.mmap(self._descriptor, _RECORDS * self._size)
            self._forget(set(range(places)) - set(running) | {place})
        finally:
            self.release()

    def open(self, caller: str, now: float) -> Record:
        self._lock()
        self._offset = offset = self._find(caller, now)
        _, tokens, at, day, elements, used = self._HEAD.unpack_from(self._memory, offset)
        in_flight = sum(self._counts.unpack_from(self._memory, offset + self._HEAD.size))
        return Record(tokens, at, day, elements, used, in_flight)

    def close(self, record: Record, started: int = 0) -> None:
        offset = self._offset
        key = self._memory[offset : offset + 16]
        fields = (record.tokens, record.at, record.day, record.elements, record.bytes)
        self._HEAD.pack_into(self._memory, offset, key, *fields)
        if started:
            at = offset + self._HEAD.size + self._COUNT.size * self._place
            own = max(0, self._COUNT.unpack_from(self._memory, at)[0] + started)
            self._COUNT.pack_into(self._memory, at, own)
        self.release()

    def release(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def _find(self, caller: str, now: float) -> int:
        offset, key = self._known.get(caller, (-1, self._EMPTY))
        if offset >= 0 and self._memory[offset : offset + 16] == key:
            return offset
        key = blake2b(caller.encode(), digest_size=16).digest()
        first = int.from_bytes(key[:4], "little")
        offsets = [(first + probe) % _RECORDS * self._size for probe in range(self._PROBES)]
        owners = [self._memory[at : at + 16] for at in offsets]
        wanted = key if key in owners else self._EMPTY
        if wanted in owners:
            offset = offsets[owners.index(wanted)]
        else:
            offset = min(offsets, key=lambda at: float(self._HEAD.unpack_from(self._memory, at)[2]))
        if wanted is not key:
            unused = self._HEAD.pack(key, inf, now, 0, 0, 0)
            self._memory[offset : offset + self._size] = unused + bytes(self._counts.size)
        if len(self._known) >= _RECORDS:
            self._known.clear()
        self._known[caller] = (offset, key)
        return offset

    def _forget(self, places: Collection[int]) -> None:
        for begin in range(0, _RECORDS * self._size, self._size):
            if self._memory[begin : begin + 16] != self._EMPTY:
                for place in places:
                    self._COUNT.pack_into(self._memory, begin + self._HEAD.size + self._COUNT.size * place, 0)
