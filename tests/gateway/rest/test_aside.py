from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import orjson
import psutil
import pytest

from gateway.codecs import v2
from gateway.errors import Internal, InvalidArgument
from gateway.rest.aside import Aside

pytestmark = pytest.mark.anyio


def body(count: int) -> bytes:
    data = np.arange(count, dtype=np.float32) / 7
    entry = {"name": "x", "datatype": "FP32", "shape": [1, count], "data": data}
    return orjson.dumps({"inputs": [entry]}, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.fixture
async def aside() -> AsyncIterator[Aside]:
    made = Aside()
    yield made
    await made.aclose()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "gateway.rest.aside" in " ".join(child.cmdline())]


async def test_small_bodies_start_nothing(aside: Aside) -> None:
    assert not aside.takes(1000)
    assert aside.takes(1 << 20)
    assert not children()


async def test_a_body_is_decoded_to_the_same_bits(aside: Aside) -> None:
    large = body(200_000)
    here, there = v2.decode_request(large), await aside.call(v2.decode_request, large, None)
    assert there.inputs[0].data.tobytes() == here.inputs[0].data.tobytes()
    assert (there.inputs[0].shape, there.outputs, there.id) == (here.inputs[0].shape, here.outputs, here.id)


async def test_a_bad_body_is_refused_as_it_would_be_here(aside: Aside) -> None:
    for bad in (b"{", b"[]", body(3).replace(b"FP32", b"FP99")):
        with pytest.raises(InvalidArgument) as here:
            v2.decode_request(bad)
        with pytest.raises(InvalidArgument) as there:
            await aside.call(v2.decode_request, bad, None)
        assert there.value.message == here.value.message


async def test_the_loop_goes_on_while_a_body_is_decoded(aside: Aside) -> None:
    """Counted, not timed: here, the loop would not turn once."""
    await aside.call(v2.decode_request, body(1), None)  # the process is there
    call = asyncio.create_task(aside.call(v2.decode_request, body(1_000_000), None))
    turns = 0
    while not call.done():
        await asyncio.sleep(0.001)
        turns += 1
    await call
    assert turns > 20


async def test_callers_get_their_own_answers_and_one_that_leaves_harms_nobody(aside: Aside) -> None:
    tasks = [asyncio.create_task(aside.call(v2.decode_request, body(count), None)) for count in range(1, 9)]
    await asyncio.sleep(0.01)
    for leaving in (0, 3):
        tasks[leaving].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for place, answer in enumerate(answers):
        if place in (0, 3):
            assert isinstance(answer, asyncio.CancelledError)
        else:
            assert isinstance(answer, v2.InferBody)
            assert answer.inputs[0].shape == (1, place + 1)


async def test_when_the_process_dies_the_request_fails_and_the_next_is_served(aside: Aside) -> None:
    await aside.call(v2.decode_request, body(1), None)
    (child,) = children()
    call = asyncio.create_task(aside.call(v2.decode_request, body(2_000_000), None))
    await asyncio.sleep(0.05)
    child.kill()
    with pytest.raises(Internal, match="the process that does it died"):
        await call
    assert (await aside.call(v2.decode_request, body(2), None)).inputs[0].shape == (1, 2)


async def test_the_end_takes_the_process_along() -> None:
    aside = Aside()
    await aside.call(v2.decode_request, body(1), None)
    assert children()
    await aside.aclose()
    assert not children()
