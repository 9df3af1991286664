"""How many connections a process may hold."""

from __future__ import annotations

import resource


def allow_open_files() -> None:
    """Raises the soft limit of open files to the hard one: shells give 1,024, and each connection is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
