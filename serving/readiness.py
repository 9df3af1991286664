"""What must be true before everything is up, and what is not yet."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

PROBE_SECONDS = 2.0


@dataclass(slots=True)
class Goal:
    """One thing to wait for. Once true it is not asked again."""

    name: str
    probe: Callable[[], bool]
    reached: bool = False


class Readiness:
    """Per server its goals. The first one opens the others: a port that does not answer yet is not asked for models."""

    def __init__(self, goals: Mapping[str, Sequence[Goal]], now: Callable[[], float] = time.monotonic) -> None:
        self._goals = goals
        self._now = now
        self._begun = now()
        self.ready_after_seconds: dict[str, float] = {}

    def poll(self) -> bool:
        """Ask what is open; True once all is reached."""
        for server, goals in self._goals.items():
            for goal in goals:
                goal.reached = goal.reached or ((goals[0].reached or goal is goals[0]) and goal.probe())
            if server not in self.ready_after_seconds and all(goal.reached for goal in goals):
                self.ready_after_seconds[server] = self._now() - self._begun
        return len(self.ready_after_seconds) == len(self._goals)

    def missing(self) -> frozenset[str]:
        """The names of the goals that are not reached."""
        return frozenset(goal.name for goals in self._goals.values() for goal in goals if not goal.reached)

    def waiting_for(self) -> dict[str, str]:
        """What each server still lacks, empty if nothing."""
        return {
            server: ", ".join(goal.name for goal in goals if not goal.reached) for server, goals in self._goals.items()
        }


def port_answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS):
            return True
    except OSError:
        return False


def page_is_ok(host: str, port: int, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> bool:
    """True if a GET of the page answers 200."""
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path, headers=dict(headers))
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        with suppress(OSError):
            connection.close()
