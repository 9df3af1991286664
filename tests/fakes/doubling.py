"""A Backend that doubles: y = 2x, row by row, and fails on purpose. It keeps what it was asked."""

from __future__ import annotations

import asyncio

import numpy as np

from gateway.backends.base import Layer
from gateway.errors import DuetError, Internal, InvalidArgument, Unavailable
from gateway.types import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Rows,
    ServerBatching,
    Signature,
    Tensor,
    TensorSpec,
    VersionMetadata,
)

#: Rows that hold this are refused, and so is the whole call.
POISON = 13.0
#: Rows that hold this make the model fail.
FAILING = 666.0

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1, -1)),), rows=Rows.INDEPENDENT)


class Doubling(Layer):
    """Each call takes ``seconds``; while ``away`` it fails at once, as a server does that cannot be reached."""

    def __init__(self, *, seconds: float = 0.01, signature: Signature = SIGNATURE, parallelism: int = 1) -> None:
        self.seconds = seconds
        self.signature = signature
        self.parallelism = parallelism
        self.versions = (1,)
        self.away = False
        self.asked: list[InferRequest] = []
        self.rows_answered = 0
        self.in_flight = 0
        self.given_up = 0
        #: More signatures of each version.
        self.others: dict[str, Signature] = {}
        self.batching: ServerBatching | None = None
        self.artifact = ""
        self.ready = True
        self._known: tuple[object, ModelMetadata] | None = None

    def known(self, model: str) -> ModelMetadata:
        state = (self.versions, self.signature, self.batching, self.artifact, self.ready)
        if self._known is None or self._known[0] != state:
            signatures = {"f": self.signature, **self.others} if self.ready else {}
            versions = {
                number: VersionMetadata(number, self.ready, signatures, batching=self.batching, artifact=self.artifact)
                for number in self.versions
            }
            self._known = (
                state,
                ModelMetadata(model, "v", "test", versions, max(self.versions), parallelism=self.parallelism),
            )
        return self._known[1]

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        self.in_flight += 1
        try:
            if self.away:
                raise Unavailable("the server cannot be reached", retry_after_seconds=1)
            await asyncio.sleep(self.seconds)
            answer = self.answer(request)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.in_flight -= 1
        self.rows_answered += request.rows
        return answer

    def answer(self, request: InferRequest) -> InferResponse:
        for tensor in request.inputs:
            fault = self.fault(tensor)
            if fault is not None:
                raise fault
        return InferResponse(request.model, "v", request.version or 0, self.outputs(request), {"backend": self.seconds})

    def fault(self, tensor: Tensor) -> DuetError | None:
        if POISON in tensor.data:
            return InvalidArgument(f"{tensor.name} holds {POISON:g}")
        return Internal("the model failed") if FAILING in tensor.data else None

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        return tuple(Tensor("y", "FP32", 2 * tensor.data) for tensor in request.inputs)

    async def aclose(self) -> None:
        pass


def ask(*values: float, width: int = 1, deadline: float | None = None, version: int = 1) -> InferRequest:
    """A request of one row for each value."""
    data = np.repeat(np.array(values, np.float32).reshape(-1, 1), width, axis=1)
    inputs = (Tensor("x", "FP32", data),)
    return InferRequest("m", inputs, version=version, variant="v", deadline=deadline, signature_name="f")
