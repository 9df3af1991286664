"""Batched equals unbatched on the real servers: callers of all fronts at once, good, bad, hasty and gone."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import httpx
import numpy as np
import pytest

from tests.fronts import FRONTS, Arrays, Refused, v2_rest_binary
from tests.stack import Stack

pytestmark = pytest.mark.anyio

SEED = 20
CALLS = 240
#: Callers at once: enough to have many wait while one batch is on its way.
WORKERS = 24


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Call:
    model: str
    front: str
    inputs: Arrays
    seconds: float | None = None


def dense(rng: random.Random, rows: int) -> Arrays:
    return {"pixels": np.random.default_rng(rng.randrange(1 << 30)).random((rows, 64), np.float32)}


def stepping(rng: random.Random, rows: int) -> Arrays:
    """Sequences of free length: only equal lengths may share a batch."""
    length = rng.choice([1, 1, 3])
    zeros = np.zeros((rows, 128), np.float32)
    tokens = np.array([[rng.randrange(78) for _ in range(length)] for _ in range(rows)], np.int64)
    return {"token": tokens, "hidden": zeros, "cell": zeros}


def text(rng: random.Random, rows: int) -> Arrays:
    words = [b"good", b"bad", "ünïcode".encode(), b""]
    return {"text": np.array([b" ".join(rng.choices(words, k=5)) for _ in range(rows)], object)}


MODELS: dict[str, Callable[[random.Random, int], Arrays]] = {
    "dense_classifier": dense,
    "lstm_text_generator": stepping,
    "text_classifier": text,
}


def drawn(rng: random.Random) -> Call:
    model = rng.choice(list(MODELS))
    front, inputs = rng.choice(list(FRONTS)), MODELS[model](rng, rng.choice([1, 1, 1, 2, 5]))
    fate = rng.random()
    if fate < 0.05:
        return Call(model, front, inputs, seconds=1e-4)
    if fate < 0.1 and model == "dense_classifier":
        return Call(model, front, {"pixels": inputs["pixels"][:, :3]})
    if fate < 0.15 and model == "lstm_text_generator":
        return Call(model, front, {**inputs, "token": np.full_like(inputs["token"], 10_000)})  # no such token
    return Call(model, front, inputs)


Outcome = Arrays | str


def outcome(stack: Stack, variant: str, call: Call) -> Outcome:
    try:
        return FRONTS[call.front](stack, call.model, variant, call.inputs, version=None, seconds=call.seconds)
    except Refused as error:
        return error.code


def same(one: Outcome, other: Outcome) -> bool:
    """Numbers within 1e-6 of the largest beside them: float32 has seven digits, and a product of matrices sums the rows
    of many in another order than those of one (oneDNN's does; TensorFlow's answers are the same bits).
    """
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape
        and np.abs(one[name] - other[name]).max() <= 1e-6 * max(1.0, np.abs(one[name]).max())
        for name in one
    )


def joined(stack: Stack, variant: str) -> float:
    """Requests so far that went out with others: answered ones less runs."""
    text = stack.admin.get("/metrics").text
    wanted = rf'^duet_{{}}{{{{.*model="dense_classifier".*variant="{variant}".*}}}} (\S+)$'

    def total(name: str) -> float:
        return sum(map(float, re.findall(wanted.format(name), text, re.MULTILINE)))

    return total("requests_total") - total("batch_rows_count")


@pytest.mark.parametrize("variant", ["tensorflow", "pytorch"])
def test_callers_of_all_fronts_get_what_they_would_get_alone(stack: Stack, variant: str) -> None:
    """Bad, late and good ones among one another, over six fronts, one row and many."""
    rng = random.Random(SEED)
    calls = [drawn(rng) for _ in range(CALLS)]
    alone = [outcome(stack, variant, call) for call in calls]
    before = joined(stack, variant)
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in range(2):  # the first batch that is joined is asked again in the background meanwhile
            together = list(pool.map(partial(outcome, stack, variant), calls))
            wrong = [call for call, one, other in zip(calls, alone, together, strict=True) if not same(one, other)]
            assert not wrong
    assert joined(stack, variant) > before
    assert {str(one) for one in alone if isinstance(one, str)} >= {"INVALID_ARGUMENT", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("variant", ["tensorflow", pytest.param("pytorch", marks=pytest.mark.full)])
async def test_callers_that_leave_do_not_harm_those_that_stay(stack: Stack, variant: str) -> None:
    rng = random.Random(SEED)
    x = [np.full((1, 1), value, np.float32) for value in range(200)]
    body = [{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [float(v[0, 0])]}]} for v in x]
    url = f"http://127.0.0.1:{stack.http_port}/v2/models/linear_regression@{variant}/infer"
    limits = httpx.Limits(max_connections=48)
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:
        tasks = [asyncio.create_task(client.post(url, json=one)) for one in body]
        for task in rng.sample(tasks, 60):
            asyncio.get_running_loop().call_later(rng.random() / 5, task.cancel)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    stayed = [(one, answer) for one, answer in zip(x, answers, strict=True) if isinstance(answer, httpx.Response)]
    assert len(stayed) >= 140
    for one, answer in stayed:
        assert answer.status_code == 200, answer.text
        expected = v2_rest_binary(stack, "linear_regression", variant, {"x": one}, version=None, seconds=None)
        assert abs(answer.json()["outputs"][0]["data"][0] - expected["y"][0, 0]) <= 1e-6 * max(
            1, abs(expected["y"][0, 0])
        )
