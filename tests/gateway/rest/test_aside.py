from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pytest

from gateway.codecs import v2
from gateway.errors import DuetError, Internal, InvalidArgument
from gateway.observation import Observation
from gateway.rest import aside as aside_module
from gateway.rest.aside import Aside
from gateway.rest.aside_child import SLICE_BYTES
from gateway.rest.endpoint import OBSERVATION, _caller
from gateway.rest.turns import Quarantine
from gateway.security.access import ACCESS, Access, Identity
from gateway.security.grants import NO_GRANTS

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
    call = asyncio.create_task(aside.call(time.sleep, 60))
    await asyncio.sleep(0.2)  # it has the question
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


async def test_a_process_that_died_while_nobody_asked_is_replaced_unnoticed(aside: Aside) -> None:
    await aside.call(v2.decode_request, body(1), None)
    (child,) = children()
    child.kill()
    await asyncio.sleep(0.2)
    assert (await aside.call(v2.decode_request, body(2), None)).inputs[0].shape == (1, 2)


async def test_callers_take_turns(aside: Aside) -> None:
    """The kind: many waiting bodies of one caller, whoever it is; another's first one waits for one of them at most."""
    order: list[str] = []

    async def ask(caller: str) -> None:
        await aside.call(time.sleep, 0.02, caller=caller)
        order.append(caller)

    await aside.call(v2.decode_request, body(1), None)
    await asyncio.gather(*(ask(caller) for caller in "aaaaaabbc"))
    assert "".join(order) == "abcabaaaa"


async def test_who_was_let_in_takes_its_own_turn(aside: Aside) -> None:
    """The identity counts where a front says no caller, as over gRPC."""
    order: list[str] = []

    async def ask(name: str) -> None:
        ACCESS.set(Access(Identity(f"key:{name}", name, "key", NO_GRANTS)))
        await aside.call(time.sleep, 0.02)
        order.append(name)

    await aside.call(v2.decode_request, body(1), None)
    await asyncio.gather(*(asyncio.create_task(ask(name)) for name in "aaab"))
    assert "".join(order) == "abaa"


async def test_without_identities_turns_are_by_address() -> None:
    """As bodies are counted: of IPv6 a subnet is one caller."""

    def caller(host: str, access: Access | None = None) -> str:
        return _caller({"client": (host, 1), OBSERVATION: Observation("1", "", 0.0, access=access)})

    assert len({caller(host) for host in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")}) == 3
    known = Access(Identity("key:a", "a", "key", NO_GRANTS))
    assert caller("192.0.2.1", known) == caller("192.0.2.2", known) == "key:a"


async def test_who_leaves_before_its_turn_has_none(aside: Aside, tmp_path: Path) -> None:
    """Nothing is decoded for it: what it waited for is not even begun."""
    first = asyncio.create_task(aside.call(time.sleep, 0.3))
    left = [asyncio.create_task(aside.call(os.mkdir, str(tmp_path / str(place)))) for place in range(3)]
    await asyncio.sleep(0.05)
    for task in left:
        task.cancel()
    await first
    await aside.call(os.mkdir, str(tmp_path / "last"))
    assert os.listdir(tmp_path) == ["last"]


@pytest.mark.parametrize(
    ("function", "argument", "error"),
    [(os._exit, 3, Internal), (os.kill, None, Internal), (sum, range(2 * 10**8), InvalidArgument)],
    ids=["ends the process", "is killed in it", "takes too long"],
)
async def test_a_body_that_does_harm_is_not_tried_again(
    function: Callable[..., Any], argument: Any, error: type[DuetError]
) -> None:
    """The kind: whatever one body does to the process. Retries get the same error without reaching it."""
    aside = Aside(decode_seconds=0.2)
    await aside.call(v2.decode_request, body(1), None)
    arguments = (children()[0].pid, 9) if argument is None else (argument,)
    with pytest.raises(error) as first:
        await aside.call(function, *arguments)
    assert await aside.call(time.sleep, 0) is None
    (replacement,) = children()
    for _ in range(3):
        with pytest.raises(error) as again:
            await aside.call(function, *arguments, caller="another")
        assert again.value.message == first.value.message
    assert children() == [replacement]
    await aside.aclose()


async def test_waiting_for_the_processor_is_no_time_of_a_body(aside: Aside) -> None:
    slow = Aside(decode_seconds=0.2)
    await slow.call(time.sleep, 0.5)
    await slow.aclose()


async def test_the_end_is_the_end_for_those_who_wait() -> None:
    aside = Aside()
    calls = [asyncio.create_task(aside.call(time.sleep, 60)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await aside.aclose()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)


def test_harm_is_forgotten_after_a_minute_and_not_all_of_it_is_kept() -> None:
    quarantine, error = Quarantine(seconds=60, most=3), Internal("it died")
    for number in range(4):
        quarantine.add(bytes([number]), error, now=number)
    assert [quarantine.of(bytes([number]), now=10.0) for number in range(4)] == [None, error, error, error]
    assert [quarantine.of(bytes([number]), now=62.0) for number in range(4)] == [None, None, None, error]


@pytest.mark.full
@pytest.mark.parametrize("form", ["FP64", "INT64", "FP32", "wrong"])
def test_one_callers_large_body_takes_64_mib_of_both_processes(form: str) -> None:
    """Beyond what they take idle: 16 MiB of text, of which one copy is held at a time, and up to 32 MiB of tensor."""
    # In a process that has not allocated and freed as much before: its allocator would keep that.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(highest, form).result() < 64 << 20


def highest(form: str) -> int:
    return asyncio.run(_highest(form))


async def _highest(form: str) -> int:
    path = Path(tempfile.mkdtemp()) / "body"
    await asyncio.get_running_loop().run_in_executor(None, subprocess.run, [sys.executable, "-c", _WRITE, form, path])
    aside = Aside()
    await aside.call(v2.decode_request, body(1), None)
    pids = [os.getpid(), children()[0].pid]
    idle, most = sum(map(proportional, pids)), 0
    call = asyncio.create_task(aside.call(v2.decode_request, path.read_bytes(), None))
    while not call.done():
        most = max(most, sum(map(proportional, pids)))
        await asyncio.sleep(0.003)
    await asyncio.gather(call, return_exceptions=True)
    await aside.aclose()
    return most - idle


_WRITE = """
import sys
form, path = sys.argv[1:]
count = (16 << 20) // 4 - 64
datatype = "FP32" if form == "wrong" else form
head = '{"inputs":[{"name":"x","datatype":"%s","shape":[%d],"data":[' % (datatype, count)
unit, last = "257," if form == "INT64" else "1.5,", "x" if form == "wrong" else "1"
open(path, "w").write(head + unit * (count - 1) + last + "]}]}")
"""


def proportional(pid: int) -> int:
    """Bytes of memory, of shared pages its part."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("Pss:")[1].split()[0]) << 10


@pytest.mark.parametrize("sizes", [[SLICE_BYTES - 1] * 40, [SLICE_BYTES // 8] * 320, [10 << 20], [1, 5 << 20, 5 << 20]])
async def test_others_get_on_while_a_body_is_digested_however_it_is_cut(sizes: list[int]) -> None:
    """Ten megabytes in parts, each below a slice, took 15 ms in one step."""
    loop, steps, done = asyncio.get_running_loop(), 0, False

    def step() -> None:
        nonlocal steps
        steps += 1
        if not done:
            loop.call_soon(step)

    loop.call_soon(step)
    await aside_module._digest([bytes(size) for size in sizes])
    done = True
    assert steps >= sum(sizes) // (2 * SLICE_BYTES) - 1
