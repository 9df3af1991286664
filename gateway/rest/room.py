"""How many bytes of request bodies are held, and for whom; how fast a body comes. Pure decisions: no I/O, no clock.

One ledger for all ports of a process. A share binds only while others need room: it is a share of what the others
leave, not of the whole. So a caller that is alone gets on, and however much one holds, there is something left for the
next (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Holding:
    """What one connection holds. ``large`` says in which part of the room."""

    caller: str
    size: int = 0
    large: bool = False


@dataclass(frozen=True, slots=True)
class Shares:
    """A caller holds at most ``caller`` of what other callers leave, a connection ``connection`` of what others leave.

    ``small`` of the room is kept for bodies of up to ``small_bytes``.
    """

    caller: float = 0.5
    connection: float = 0.5
    small: float = 0.125
    small_bytes: int = 64 << 10


class Room:
    """Room for ``max_bytes`` of bodies, in two parts: one for small bodies alone, and one for all."""

    def __init__(self, max_bytes: int, shares: Shares = Shares()) -> None:
        small = int(max_bytes * shares.small)
        self._shares = shares
        self._small = _Part(small, shares)
        self._all = _Part(max_bytes - small, shares)

    @property
    def held_bytes(self) -> int:
        return self._small.held + self._all.held

    def take(self, holding: Holding, size: int) -> bool:
        """Whether there is room for ``size`` bytes more, which are held then. Give them back with `give_back`.

        A body that has grown out of the small ones takes all its bytes along. A small one for which the small part has
        no room may take some of the other. A large body that is alone may be larger than all the room.
        """
        if holding.large:
            if self._all.held == holding.size:
                self._add(self._all, holding, size)
                return True
            return self._take(self._all, holding, size)
        after = holding.size + size
        if after <= self._shares.small_bytes and self._take(self._small, holding, size):
            return True
        if self._all.held and not self._all.fits(holding.caller, 0, after):
            return False
        self._small.add(holding.caller, -holding.size)
        self._all.add(holding.caller, after)
        holding.size, holding.large = after, True
        return True

    def give_back(self, holding: Holding) -> None:
        self._part(holding).add(holding.caller, -holding.size)
        holding.size, holding.large = 0, False

    def move(self, holding: Holding, caller: str) -> None:
        """It is known now who the caller is. What is held stays, even if it is more than the share."""
        if caller != holding.caller:
            part = self._part(holding)
            part.add(holding.caller, -holding.size)
            part.add(caller, holding.size)
            holding.caller = caller

    def makes_way(self, slow: Holding, holding: Holding) -> bool:
        """Whether ``slow``, whose body hardly comes, should give up its place so that ``holding`` gets one.

        The same caller's should, and that of a caller who holds more. Nobody pushes out whoever holds less.
        """
        if slow is holding or not slow.size:
            return False
        return slow.caller == holding.caller or self._of(slow.caller) > self._of(holding.caller)

    def _of(self, caller: str) -> int:
        return self._small.callers.get(caller, 0) + self._all.callers.get(caller, 0)

    def _part(self, holding: Holding) -> _Part:
        return self._all if holding.large else self._small

    def _take(self, part: _Part, holding: Holding, size: int) -> bool:
        fits = part.fits(holding.caller, holding.size, size)
        if fits:
            self._add(part, holding, size)
        return fits

    @staticmethod
    def _add(part: _Part, holding: Holding, size: int) -> None:
        part.add(holding.caller, size)
        holding.size += size


class _Part:
    def __init__(self, capacity: int, shares: Shares) -> None:
        self.held = 0
        self.callers: dict[str, int] = {}
        self._capacity = capacity
        self._shares = shares

    def fits(self, caller: str, connection: int, size: int) -> bool:
        """``connection`` is what the connection holds of this part."""
        own = self.callers.get(caller, 0)
        left_by_callers = self._capacity - (self.held - own)
        left_by_connections = self._capacity - (self.held - connection)
        return (
            own + size <= self._shares.caller * left_by_callers
            and connection + size <= self._shares.connection * left_by_connections
        )

    def add(self, caller: str, size: int) -> None:
        self.held += size
        count = self.callers.get(caller, 0) + size
        if count:
            self.callers[caller] = count
        else:
            self.callers.pop(caller, None)


class Pace:
    """How fast one body comes, over the last seconds and not since its beginning. Times are seconds of any one clock.

    The rate is that of the last ``window_seconds`` to twice as much: what came before earns no patience.
    """

    __slots__ = ("_before", "_mark", "received_bytes", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.received_bytes = 0
        self._before = self._mark = (now, 0)

    def is_slow(self, now: float, *, bytes_per_second: float, window_seconds: float) -> bool:
        """To be asked more often than once in ``window_seconds``."""
        if now - self._mark[0] >= window_seconds:
            self._before, self._mark = self._mark, (now, self.received_bytes)
        since, before = self._before
        if since != self.since and now - since < window_seconds:
            return False  # we have only just begun to read again
        return self.received_bytes - before < bytes_per_second * (now - since)

    def pause(self, now: float) -> None:
        """Nothing can come: we do not read."""
        self._before = self._mark = (now, self.received_bytes)
