"""One address of a server, and what the balancer knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.backends.base import Guard, Server
from gateway.servers.overdue import Calls
from gateway.servers.pace import Pace
from gateway.types import ModelMetadata


@dataclass(slots=True, eq=False)
class Endpoint:
    """One address of a server. ``leaving``: its name no longer stands for it; what is in flight ends there."""

    address: str
    backend: Server
    guard: Guard
    in_flight: int = 0
    leaving: bool = False
    known: dict[str, ModelMetadata] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)
    calls: dict[str, Calls] = field(default_factory=dict)
    #: The models for which it is doubted and asked what it has answered before.
    judging: set[str] = field(default_factory=set)
    #: The models for which nothing came for too long, while another endpoint could answer.
    silent: set[str] = field(default_factory=set)

    def serves(self, model: str, version: int | None) -> bool:
        metadata = self.known.get(model)
        found = metadata.versions.get(version) if metadata is not None and version is not None else None
        return found is not None and found.ready

    def of(self, model: str) -> Calls:
        found = self.calls.get(model)
        if found is None:
            found = self.calls[model] = Calls(self, model)
        return found

    def pace(self, model: str) -> Pace:
        return self.of(model).pace
