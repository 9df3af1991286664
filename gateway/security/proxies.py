"""Proxies that are believed about whom they call for, so that their clients are told apart.

A client may write what it likes into a header, and a proxy adds to its right end the address that it sees. So the
header counts only where the connection comes from a trusted proxy, and in it the right-most address that is none.
It decides about shares alone: never who somebody is, nor what it may do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from gateway.security.shares import of_address

#: Proxies between a client and the gateway: more than that is no chain but an attempt.
_MAX_HOPS = 16
_PORT = r"(?::[0-9]{1,5})?"
_V4 = re.compile(rf"([0-9.]+){_PORT}")
_V6 = re.compile(rf"\[([0-9A-Fa-f:.]+)\]{_PORT}|([0-9A-Fa-f:.]+)")
#: RFC 7239, section 4: token=token or token="quoted"; pairs are parted by semicolons, elements by commas.
_PAIR = r'\s*[!#$%&\'*+.^_`|~0-9A-Za-z-]+=(?:"(?:[^"\\]|\\.)*"|[^\s",;]*)\s*'
_ELEMENT = re.compile(rf"{_PAIR}(?:;{_PAIR})*")
_FOR = re.compile(r'(?:^|;)\s*for=(?:"([^"\\]*)"|([^\s",;]*))', re.IGNORECASE)


class Proxies:
    """The proxies in ``networks``, which write whom they call for into ``header`` (lower case)."""

    def __init__(self, networks: Collection[IPv4Network | IPv6Network], header: str) -> None:
        self.header = header
        self._networks = tuple(networks)
        self._entries = _of_forwarded if header == "forwarded" else _of_x_forwarded_for
        self.trusts = lru_cache(4096)(self._trusts)

    def _trusts(self, host: str) -> bool:
        """Whether a connection from that address is a trusted proxy's."""
        address = _address(host)
        return address is not None and any(address in network for network in self._networks)

    def caller(self, host: str, values: Iterable[str]) -> str:
        """The caller for a request that came from ``host``, with the header's ``values`` in their order.

        Without a header, and where an address that counts is none, the proxy itself is.
        """
        if not self.trusts(host):
            return of_address(host)
        found = host
        for count, entry in enumerate(self._entries(",".join(values))):
            address = _address(entry)
            if address is None or count == _MAX_HOPS:
                return of_address(host)
            found = str(address)
            if not self.trusts(found):
                break
        return of_address(found)


def _of_x_forwarded_for(value: str) -> Iterator[str]:
    """From right to left."""
    while value:
        value, _, entry = value.rpartition(",")
        yield entry


def _of_forwarded(value: str) -> Iterator[str]:
    """From right to left. What cannot be read is an empty entry, and so is an element that does not say for whom."""
    elements, end = [], 0
    while value:
        match = _ELEMENT.match(value, end)
        if match is None or value[match.end() : match.end() + 1] not in ("", ","):
            elements = [""]
            break
        names = _FOR.findall(match[0])
        elements.append("".join(names[0]) if len(names) == 1 else "")
        end = match.end() + 1
        if end > len(value):
            break
    yield from reversed(elements)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """With or without a port, IPv6 with or without brackets. An IPv4 address may be written as an IPv6 one."""
    text = text.strip(" \t")
    match = _V4.fullmatch(text) or _V6.fullmatch(text)
    if match is None:
        return None
    try:
        address = ip_address(next(filter(None, match.groups())))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
