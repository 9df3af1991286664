"""Are the ports free? Asked for all of them before anything starts."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from serving.failures import Failure


class PortsTaken(Failure):
    """At least one port cannot be had; the text has a line for each and says which option changes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A port that a server will listen on, and the option of `serving up` that sets it."""

    server: str
    host: str
    port: int
    option: str


def check_free(listeners: Sequence[Listener]) -> None:
    """Raise PortsTaken unless every port is free and no two are the same."""
    uses = Counter(listener.port for listener in listeners)
    problems = [
        f"port {listener.port} ({listener.server}) {problem}; choose another with {listener.option} PORT"
        for listener in listeners
        if (problem := "is also another server's" if uses[listener.port] > 1 else _problem(listener))
    ]
    if problems:
        raise PortsTaken("\n".join(problems))


def _problem(listener: Listener) -> str:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: a port whose last connections are still in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listener.host, listener.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"is taken{_by_whom(listener.port)}"
            return f"cannot be opened on {listener.host} ({error.strerror})"
    return ""


def _by_whom(port: int) -> str:
    with suppress(psutil.Error, OSError):  # other users' processes may not be shown
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
