"""One caller's share of the event loop's time: so many pieces of work in each of the loop's turns, the others later.

A turn of the loop handles whatever has come since the last one. A hundred requests that come at once from one address
are one long turn, and a gRPC call, which takes some twenty turns, waits for each of them. Here they are spread over
many short turns, with everybody else's work in between. Nothing is refused, and who is alone loses next to nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

#: Pieces of a caller's work in one turn. A small request takes 0.1 to 0.2 ms.
_PIECES = 8
#: Bytes that may wait for a caller. What is more is not put off: it would be held in memory.
_MOST_BYTES = 16 << 20
#: So long after one address another one is not alone. Longer than between two of somebody's calls that are hurt.
_CROWDED_SECONDS = 1.0


@dataclass(slots=True)
class _Own:
    size: int = 0
    work: deque[tuple[Callable[[], None], int]] = field(default_factory=deque)


class Spread:
    """Who is alone has all the time there is: it acts while another address asks for something, and a little longer.

    ``call_soon`` is the event loop's: it calls back in the loop's next turn. ``clock`` is the loop's too: uvloop's
    stands still during a turn, and turns of less than a millisecond are counted as one.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._latest = ""
        self._crowded_until = 0.0
        self._turn = 0.0
        self._pieces: dict[str, int] = {}
        self._waiting: dict[str, _Own] = {}
        self._is_called = False

    def is_now(self, caller: str, size: int = 0) -> bool:
        """Whether a piece of work that holds ``size`` bytes is to be done at once. Otherwise give it to `put_off`."""
        now = self._now()
        if caller != self._latest:
            if self._latest:
                self._crowded_until = now + _CROWDED_SECONDS
            self._latest = caller
        if now >= self._crowded_until:
            return True
        own = self._waiting.get(caller)
        if own is not None:
            return own.size + size > _MOST_BYTES
        pieces = self._in_turn(now).get(caller, 0)
        self._pieces[caller] = pieces + 1
        return pieces < _PIECES

    @property
    def is_crowded(self) -> bool:
        return self._now() < self._crowded_until

    def has_room(self, caller: str, size: int) -> bool:
        """Whether so many bytes may be put off."""
        own = self._waiting.get(caller)
        return (own.size if own else 0) + size <= _MOST_BYTES

    def put_off(self, caller: str, work: Callable[[], None], size: int = 0) -> None:
        """Until a turn in which there is time for it; a caller's work is done in the order in which it came."""
        own = self._waiting.get(caller)
        if own is None:
            own = self._waiting[caller] = _Own()
        own.work.append((work, size))
        own.size += size
        if not self._is_called:
            self._soon()

    def _now(self) -> float:
        if self._clock is None:
            self._clock = asyncio.get_running_loop().time
        return self._clock()

    def _in_turn(self, now: float) -> dict[str, int]:
        """How many pieces of each caller have been done in this turn."""
        if now != self._turn:
            self._turn = now
            self._pieces.clear()
        return self._pieces

    def _soon(self) -> None:
        self._is_called = True
        (self._call_soon or asyncio.get_running_loop().call_soon)(self._next)

    def _next(self) -> None:
        """A new turn. Those that still wait are first: what comes new in it comes after them."""
        self._is_called = False
        pieces = self._in_turn(self._now())
        for caller, own in list(self._waiting.items()):
            pieces[caller] = _PIECES
            for _ in range(min(_PIECES, len(own.work))):
                work, size = own.work.popleft()
                own.size -= size
                work()
            if not own.work:
                del self._waiting[caller]
        if self._waiting and not self._is_called:
            self._soon()
