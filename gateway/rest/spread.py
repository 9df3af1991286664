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


@dataclass(slots=True)
class _Own:
    pieces: int = 0
    size: int = 0
    waiting: deque[tuple[Callable[[], None], int]] = field(default_factory=deque)


class Spread:
    """``call_soon`` is the event loop's: it calls back in the loop's next turn."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._call_soon = call_soon
        self._callers: dict[str, _Own] = {}
        self._is_called = False

    def is_now(self, caller: str, size: int = 0) -> bool:
        """Whether a piece of work that holds ``size`` bytes is to be done at once. Otherwise give it to `put_off`."""
        own = self._own(caller)
        if own.pieces >= _PIECES and own.size + size <= _MOST_BYTES:
            return False
        own.pieces += 1
        return True

    def has_room(self, caller: str, size: int) -> bool:
        """Whether so many bytes may be put off."""
        return self._own(caller).size + size <= _MOST_BYTES

    def put_off(self, caller: str, work: Callable[[], None], size: int = 0) -> None:
        """Until a turn in which there is time for it; a caller's work is done in the order in which it came."""
        own = self._own(caller)
        own.waiting.append((work, size))
        own.size += size

    def _own(self, caller: str) -> _Own:
        if not self._is_called:
            self._soon()
        own = self._callers.get(caller)
        if own is None:
            own = self._callers[caller] = _Own()
        return own

    def _soon(self) -> None:
        self._is_called = True
        (self._call_soon or asyncio.get_running_loop().call_soon)(self._next)

    def _next(self) -> None:
        """A new turn: callers without anything that waits are forgotten."""
        self._is_called = False
        self._callers = {caller: own for caller, own in self._callers.items() if own.waiting}
        if not self._callers:
            return
        self._soon()
        for own in list(self._callers.values()):
            # Those that still wait are first: what comes new in this turn comes after them.
            own.pieces = _PIECES
            for _ in range(min(_PIECES, len(own.waiting))):
                work, size = own.waiting.popleft()
                own.size -= size
                work()
