"""Places that callers hold: so many in all, and of those a share for each caller."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from math import ceil

from gateway.errors import ResourceExhausted

_SUBNET_BITS = 64


class Shares:
    """A caller may hold ``share`` of the ``places``, at least one. ``what`` and ``setting`` are for the refusals."""

    def __init__(self, *, places: int, share: float, what: str, setting: str) -> None:
        self.held = 0
        self.each = max(1, ceil(places * share))
        self._places = places
        self._what = what
        self._setting = setting
        self._callers: dict[str, int] = {}

    def enter(self, caller: str) -> None:
        """Takes a place, to be given back by `leave`. Raises ResourceExhausted."""
        if self.held >= self._places:
            raise self._full(f"all {self._places} {self._what} of the gateway are taken")
        self._take(caller)
        self.held += 1

    def move(self, caller: str, other: str) -> None:
        """The place is another caller's from now on. Raises ResourceExhausted, and then it stays where it was."""
        self._take(other)
        self._give_back(caller)

    def leave(self, caller: str) -> None:
        self._give_back(caller)
        self.held -= 1

    def _take(self, caller: str) -> None:
        count = self._callers.get(caller, 0)
        if count >= self.each:
            raise self._full(f"one caller may hold {self.each} {self._what} at a time")
        self._callers[caller] = count + 1

    def _give_back(self, caller: str) -> None:
        count = self._callers[caller] - 1
        if count:
            self._callers[caller] = count
        else:
            del self._callers[caller]

    def _full(self, text: str) -> ResourceExhausted:
        return ResourceExhausted(f"{text} ({self._setting}); wait for one to end and try again", retry_after_seconds=1)


@lru_cache(4096)
def of_address(host: str) -> str:
    """The caller that an address stands for where nothing else is known: a subnet of 64 bits in IPv6."""
    try:
        address = ip_address(host)
    except ValueError:  # a Unix socket
        return "peer:local"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return f"peer:{address.ipv4_mapped}"
        subnet = IPv6Address(int(address) >> _SUBNET_BITS << _SUBNET_BITS)
        return f"peer:{subnet}/{_SUBNET_BITS}"
    return f"peer:{address}"
