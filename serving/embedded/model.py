"""What every kind of loaded model has: signatures, and a way to run tensors by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import grpc
from tensorflow.core.protobuf import meta_graph_pb2

from serving.embedded.errors import ServingError
from serving.embedded.tensors import Array

SignatureDef = meta_graph_pb2.SignatureDef


class Slow(Exception):
    """The model may take longer than who asked has time for; nothing was run."""


class Run(Protocol):
    """Tensor names to feed, their values, tensor names to fetch; a deadline on `time.monotonic`'s clock.

    Raises ServingError with TensorFlow's own code and text; DEADLINE_EXCEEDED where the deadline came first.
    """

    def __call__(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], *, deadline: float | None = None
    ) -> list[Array]: ...


class Quick(Protocol):
    """Whether a small request's run of these tensors is known to be over within a millisecond or so."""

    def __call__(self, feeds: Sequence[str], fetches: Sequence[str]) -> bool: ...


class Runnable(Protocol):
    @property
    def signatures(self) -> Mapping[str, SignatureDef]: ...

    @property
    def run(self) -> Run: ...


class Model(Runnable, Protocol):
    """Any number of threads may run it at once. `close` is called once, when nobody does."""

    @property
    def quick(self) -> Quick: ...

    def close(self) -> None: ...


def timed_out() -> ServingError:
    """As TensorFlow words it (direct_session.cc)."""
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")
