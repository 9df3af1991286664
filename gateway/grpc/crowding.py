"""The places of gRPC's connections: who makes way where there are too many. Pure decisions, no I/O.

C core takes connections in the order in which they come, whoever has how many. So its own limit is set higher than ours
by a reserve, and connections that are too many are cut soon after they came. A caller is an address here, as in
`gateway.rest.places`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Protocol, TypeVar

#: A caller may hold so many, however few there are in all. The reserve is at least that, too.
_LEAST = 64


class Placed(Protocol):
    @property
    def caller(self) -> str: ...
    @property
    def proxy(self) -> str | None:
        """The address of a trusted proxy, whose callers are many: it has no share."""
        ...


C = TypeVar("C", bound=Placed)


@dataclass(frozen=True, slots=True)
class Places:
    """So many connections, and ``share`` of them for one caller."""

    total: int = 4096
    share: float = 0.25

    @property
    def each(self) -> int:
        return max(_LEAST, ceil(self.total * self.share))

    @property
    def of_core(self) -> int:
        """C core's limit: room for those that come before others are cut."""
        return self.total + max(_LEAST, self.total // 4)


def beyond(connections: Iterable[C], places: Places) -> list[C]:
    """The connections that make way, of all in the order in which they came.

    Of a caller the newest ones make way. Where all places are taken, those who hold most come down to the same number.
    """
    callers: dict[str, list[C]] = defaultdict(list)
    for connection in connections:
        callers[connection.caller].append(connection)
    each = {name: len(own) if own[0].proxy else min(len(own), places.each) for name, own in callers.items()}
    level = _level(each.values(), places.total)
    kept = {connection for name, own in callers.items() for connection in own[: min(each[name], level)]}
    # More callers than places.
    for own in list(callers.values())[places.total :]:
        kept.difference_update(own)
    return [connection for own in callers.values() for connection in own if connection not in kept]


def _level(counts: Collection[int], total: int) -> int:
    """How many each may keep at most, so that all keep ``total``; at least one."""
    left, level = total, max(counts, default=0)
    for number, count in enumerate(sorted(counts)):
        fair = left // (len(counts) - number)
        if count > fair:
            return max(1, fair)
        left -= count
    return level
