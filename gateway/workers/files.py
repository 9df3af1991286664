"""How many files, and so connections, a process may hold."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("duet")

#: Below this the gateway does not start: log, sockets, servers and a few dozen clients.
_LEAST = 128


def allow_open_files() -> int:
    """Raises the soft limit of open files to the hard one, and tells it: shells give 1,024, each connection is a file.

    Raises OSError where that is too few to serve with.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < _LEAST:
        raise OSError(f"only {hard} files may be open, and {_LEAST} are the least; raise the limit (ulimit -Hn)")
    return hard if hard != resource.RLIM_INFINITY else 1 << 30


def connections_within(limit: int, wanted: int) -> int:
    """How many clients' connections ``limit`` open files leave room for; the servers behind need theirs.

    >>> connections_within(1_000_000, 16_384)
    16384
    >>> connections_within(256, 16_384)
    128
    """
    room = limit - limit // 4 - 64
    if room < wanted:
        log.warning(
            "only %d files may be open, so at most %d of %d connections are taken; raise the limit (ulimit -Hn)",
            limit,
            room,
            wanted,
        )
    return min(wanted, room)
