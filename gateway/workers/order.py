"""What the supervisor tells a new worker, over its standard input, which then stays open for as long as both live."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gateway.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """``http`` and ``admin`` are descriptors of listening sockets, ``place`` is the worker's on ``folder``'s board."""

    settings: Settings
    http: int
    admin: int
    grpc_port: int
    place: int
    workers: int
    folder: Path

    def write(self, stream: IO[bytes]) -> None:
        """Pickled, not JSON: secrets among the settings hide from JSON."""
        pickle.dump(self, stream)
        stream.flush()


def read(stream: IO[bytes]) -> Order:
    order = pickle.load(stream)  # noqa: S301 - our own parent's pipe
    if not isinstance(order, Order):
        raise TypeError("--worker is for the gateway's own use: start it with --workers N")
    return order
