"""What a generator is told to do, as a file: everything that it needs, and nothing that changes between two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from loadtest.analysis.arrivals import Times, generator, payload_order, poisson

TIMEOUT_SECONDS = 10.0
MOST_IN_FLIGHT = 256
CONNECTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One worker's part of one block.

    Open loop: ``rate`` requests/s of this worker, Poisson, by ``seed``, ``cell``, ``pair`` and ``worker``. Closed loop
    (``callers`` above 0): so many callers, each of which sends when its last answer has come.
    ``bodies`` is an .npz of the payloads, ``sampled`` the share of answers that are kept for the parity check,
    ``cores`` those that the generator may run on, empty for all.
    """

    transport: str
    host: str
    port: int
    target: str
    headers: Mapping[str, str]
    bodies: str
    out: str
    seed: int
    cell: str
    pair: int
    seconds: float
    rate: float = 0.0
    callers: int = 0
    worker: int = 0
    timeout_seconds: float = TIMEOUT_SECONDS
    most_in_flight: int = MOST_IN_FLIGHT
    connections: int = CONNECTIONS
    sampled: float = 0.01
    cores: Sequence[int] = ()
    per_body_headers: Sequence[Mapping[str, str]] = field(default_factory=tuple)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text()))

    def read_bodies(self) -> list[bytes]:
        with np.load(self.bodies) as stored:
            return [stored[name].tobytes() for name in stored.files]

    def arrivals(self) -> Times:
        return poisson(generator(self.seed, self.cell, self.pair, self.worker), self.rate, self.seconds)

    def payloads(self, requests: int, bodies: int) -> list[int]:
        chosen = generator(self.seed, f"{self.cell}/payloads", self.pair, self.worker)
        return [int(place) for place in payload_order(chosen, requests, bodies)]


def write_bodies(path: Path, bodies: Sequence[bytes]) -> None:
    """In order; a body is an array of bytes. Raises OSError."""
    named = {f"{place:05d}": np.frombuffer(body, np.uint8) for place, body in enumerate(bodies)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **named)
