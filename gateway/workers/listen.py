"""Listening sockets: one process's own, or several that share an address."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

_BACKLOG = 2048


def alone(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError where another process has the port."""
    with _explained(host, port):
        return socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)


def shared(host: str, port: int, *, count: int) -> list[socket.socket]:
    """Listening sockets on one address, among which the kernel deals out connections. Raises OSError as `alone` does.

    The backlog of one that nobody accepts from keeps its connections until somebody does.
    """
    port = _free(host, port)
    with _explained(host, port):
        return [
            socket.create_server((host, port), family=_family(host), backlog=_BACKLOG, reuse_port=True)
            for _ in range(count)
        ]


def reserve(host: str, port: int) -> socket.socket:
    """A socket that keeps the port for those who will share it, and takes no connection. Raises OSError as above."""
    port = _free(host, port)
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    with _explained(host, port):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    return sock


def authority(host: str, port: int) -> str:
    """
    >>> authority("::1", 80)
    '[::1]:80'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _free(host: str, port: int) -> int:
    """The port, or a free one for 0. A port that is shared could be taken from another program without a word."""
    with alone(host, port) as probe:
        return int(probe.getsockname()[1])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"cannot listen on {authority(host, port)}: {reason}; choose another port") from error
