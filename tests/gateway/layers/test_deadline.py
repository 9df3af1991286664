from __future__ import annotations

import asyncio

import pytest

from gateway.backends.base import Layer
from gateway.errors import DeadlineExceeded
from gateway.layers.deadline import Deadline
from gateway.types import InferRequest, InferResponse

pytestmark = pytest.mark.anyio


class Slow(Layer):
    def __init__(self) -> None:
        self.seen: InferRequest | None = None
        self.cancelled = False

    async def infer(self, request: InferRequest) -> InferResponse:
        self.seen = request
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return InferResponse(request.model, "v", 1, ())


async def test_a_late_answer_is_deadline_exceeded_and_the_call_is_given_up() -> None:
    slow = Slow()
    with pytest.raises(DeadlineExceeded, match="m did not answer"):
        await Deadline(slow, default_seconds=0.02).infer(InferRequest("m", ()))
    assert slow.cancelled


async def test_a_requests_own_deadline_goes_before_the_default() -> None:
    own = asyncio.get_running_loop().time() + 5
    slow = Slow()
    await Deadline(slow, default_seconds=0.02).infer(InferRequest("m", (), deadline=own))
    assert slow.seen is not None
    assert slow.seen.deadline == own


async def test_the_default_travels_on() -> None:
    slow = Slow()
    before = asyncio.get_running_loop().time()
    await Deadline(slow, default_seconds=9).infer(InferRequest("m", ()))
    assert slow.seen is not None
    assert slow.seen.deadline is not None
    assert 8 < slow.seen.deadline - before < 10
