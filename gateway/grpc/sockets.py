"""The sockets of gRPC's connections. Its core tells nothing of them: neither what came over them nor how to end one."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote

#: An address and its port.
Peer = tuple[str, int]

#: ``tcpi_bytes_acked`` and ``tcpi_bytes_received`` of struct tcp_info (linux/tcp.h), two numbers of 64 bits.
_COUNTS = slice(120, 136)
_TCP_INFO = 11


@dataclass(frozen=True, slots=True)
class Connected:
    """An accepted connection. The core owns ``sock``: it is never closed here. ``inode`` tells it from a later one."""

    sock: socket.socket
    inode: int
    peer: Peer


#: The sockets that are open, as descriptor -> inode, and the connections that are new.
Look = tuple[dict[int, int], list[Connected]]


def can_count() -> bool:
    """Whether this system tells how many bytes came over a connection (Linux since 4.1)."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError), socket.socket() as sock:
        return len(sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _COUNTS.stop)) == _COUNTS.stop
    return False


def counts(sock: socket.socket) -> tuple[int, int]:
    """How many bytes the client has taken, and how many came from it. Raises OSError."""
    both = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _COUNTS.stop)[_COUNTS]
    return int.from_bytes(both[:8], sys.byteorder), int.from_bytes(both[8:], sys.byteorder)


def look_around(known: Mapping[int, int], ports: Collection[int]) -> Look:
    """The sockets that are open, as descriptor -> inode, and among those that were not ``known`` the connections.

    ``known`` is what the last look gave. Connections are those that were accepted on one of ``ports``.
    """
    there: dict[int, int] = {}
    new = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            number = int(name)
            status = os.fstat(number)
            if stat.S_ISSOCK(status.st_mode):
                if known.get(number) != status.st_ino and (found := _connected(number, status.st_ino, ports)):
                    new.append(found)
                there[number] = status.st_ino
    return there, new


def listeners(ports: Collection[int]) -> list[int]:
    """The descriptors of the sockets that listen on ``ports``. A copy would keep a port open that is closed."""
    found = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if _is_tcp(sock) and sock.getsockname()[1] in ports and _listens(sock):
                    found.append(int(name))
    return found


def end(connected: Connected) -> None:
    """Shuts the connection, and no other that has its descriptor by now."""
    with contextlib.suppress(OSError):
        copy = os.dup(connected.sock.fileno())
        if os.fstat(copy).st_ino != connected.inode:
            os.close(copy)
            return
        with socket.socket(fileno=copy) as sock:
            sock.shutdown(socket.SHUT_RDWR)


def _connected(number: int, inode: int, ports: Collection[int]) -> Connected | None:
    """Through a copy, so that what is looked at stays open meanwhile."""
    copy = os.dup(number)
    if os.fstat(copy).st_ino != inode:
        os.close(copy)
        return None
    with socket.socket(fileno=copy) as sock:
        if not _is_tcp(sock) or sock.getsockname()[1] not in ports:
            return None
        host, port = sock.getpeername()[:2]  # OSError of a socket that listens
        return Connected(socket.socket(sock.family, sock.type, sock.proto, fileno=number), inode, (plain(host), port))


def peer_of(text: str) -> Peer:
    """gRPC's name for a client's address, as ``ipv4:127.0.0.1:40000`` or ``ipv6:%5B::1%5D:40000``."""
    host, _, port = unquote(text.partition(":")[2]).rpartition(":")
    return plain(host.strip("[]")), int(port)


def shut(peers: Collection[Peer]) -> None:
    """Shuts those connections that came from ``peers`` to a port on which this process listens.

    gRPC's core has no call for it, so its sockets are looked up.
    """
    listening = {sock.getsockname()[1] for sock in _own_sockets() if _listens(sock)}
    for sock in _own_sockets():
        with contextlib.suppress(OSError):  # a socket that listens has no peer, nor has one that is gone
            host, port = sock.getpeername()[:2]
            if (plain(host), port) in peers and sock.getsockname()[1] in listening:
                sock.shutdown(socket.SHUT_RDWR)


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _own_sockets() -> Iterator[socket.socket]:
    """The process's TCP sockets, each open while it is looked at: another thread may close its own meanwhile."""
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            copy = os.dup(int(name))
            try:
                sock = socket.socket(fileno=copy)
            except OSError:  # no socket
                os.close(copy)
                continue
            with sock:
                if _is_tcp(sock):
                    yield sock


def _is_tcp(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM


def plain(host: str) -> str:
    """A socket of both families writes IPv4 addresses as ``::ffff:127.0.0.1``."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)
