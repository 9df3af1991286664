"""The places of one listener's connections: who makes way where there are too many. Pure decisions, no I/O.

A caller is an address here (`gateway.security.shares.of_address`): a connection has to be taken before anybody can say
who calls.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import Generic, Protocol, TypeVar

#: A caller may hold so many, however few there are in all: a share of little would be next to nothing.
_LEAST_OF_ONE = 64
#: Of connections that are at work, so many are looked at for one that may be cut.
_MAX_LOOKS = 100


class Placed(Protocol):
    @property
    def is_waiting(self) -> bool:
        """Whether the gateway waits for more of a request: nothing is being worked on."""
        ...


C = TypeVar("C", bound=Placed)


@dataclass(eq=False, slots=True)
class Own(Generic[C]):
    """One caller's connections, in the order in which they came, and the idle ones in that in which they fell idle.

    ``head_bytes`` is what their requests' heads hold.
    """

    connections: dict[C, None] = field(default_factory=dict)
    idle: dict[C, None] = field(default_factory=dict)
    head_bytes: int = 0


class Places(Generic[C]):
    """At most ``places`` connections, and ``share`` of them for one caller."""

    def __init__(self, places: int, share: float = 1.0) -> None:
        self._places = places
        self._each = max(_LEAST_OF_ONE, ceil(places * share))
        self._held = 0
        self._callers: defaultdict[str, Own[C]] = defaultdict(Own)

    def enter(self, connection: C, caller: str, *, shares: bool = True) -> C | None:
        """Takes a place, until `leave`. Gives the connection that makes way, the new one itself where it is refused.

        Where a caller's share is taken, one of its own makes way; where all places are, one of the caller's that holds
        most. It is the one that has been idle for longest, or else one that waits for its client, if that caller holds
        more than the new one's. So nobody loses a place to somebody who holds more, nor a request that is at work.
        ``shares`` is false for a proxy, whose callers are many.
        """
        own = self._callers[caller]
        own.connections[connection] = None
        self._held += 1
        if shares and len(own.connections) > self._each:
            return next(iter(own.idle), connection)
        if self._held <= self._places:
            return None
        most = max(self._callers.values(), key=lambda one: len(one.connections))
        if most.idle:
            return next(iter(most.idle))
        if len(most.connections) <= len(own.connections):
            return connection
        waiting = (one for one in islice(most.connections, _MAX_LOOKS) if one.is_waiting)
        return next(waiting, connection)

    def leave(self, connection: C, caller: str) -> None:
        own = self._callers[caller]
        own.connections.pop(connection, None)
        own.idle.pop(connection, None)
        self._held -= 1
        if not own.connections:
            del self._callers[caller]

    def own(self, caller: str) -> Own[C]:
        """Of a caller with connections."""
        return self._callers[caller]
