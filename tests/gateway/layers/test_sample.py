"""Samples as pure decisions: whose turn it is, and what in a joined answer counts as a difference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from gateway.errors import Internal
from gateway.layers import rows
from gateway.layers.agreement import Difference
from gateway.layers.sample import Sample, Turns
from gateway.types import Array, InferRequest, InferResponse, Tensor

Model = Callable[[Array], Array]


def request(data: Array, datatype: str = "FP32") -> InferRequest:
    return InferRequest("m", (Tensor("x", datatype, data),), version=1, variant="v")


def answered(model: Model, of: InferRequest) -> InferResponse:
    out = model(of.inputs[0].data)
    datatype = {"f": "FP32", "i": "INT64", "u": "UINT8"}[out.dtype.kind]
    return InferResponse("m", "v", 1, (Tensor("y", datatype, out),))


def judged(model: Model, *batch: Array, alone: Model | None = None) -> Difference | None:
    """What a sample of these requests finds."""
    requests = [request(data) for data in batch]
    joined = rows.join(requests, bytearray(rows.buffer_bytes(requests)))
    sample = Sample.of(requests, answered(model, joined))

    async def ask(of: InferRequest) -> InferResponse:
        return answered(alone if alone is not None and of.rows < joined.rows else model, of)

    return asyncio.run(sample.difference(ask))


def drawn(*counts: int, width: int = 16, seed: int = 1) -> list[Array]:
    """Rows of very different scale, but none so small that float32 could not tell it in a sum with another."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((count, width)) * 10.0 ** rng.integers(-2, 3, (count, 1))).astype(np.float32)
        for count in counts
    ]


WEIGHTS = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)


def linear(x: Array) -> Array:
    return x @ WEIGHTS


def quantised(x: Array) -> Array:
    """One activation scale for the whole batch, as ``quantize_dynamic`` has it."""
    scale = max(float(np.abs(x).max()), 1e-30) / 127
    return ((np.round(x / scale) * scale) @ WEIGHTS).astype(np.float32)


DEPENDENT: dict[str, Model] = {
    "less the mean": lambda x: x - x.mean(axis=0),
    "by the greatest": lambda x: x / np.abs(x).max(),
    "softmax over rows": lambda x: np.exp(x - x.max(axis=0)) / np.exp(x - x.max(axis=0)).sum(axis=0),
    "int8 activations": quantised,
    "running sum": lambda x: np.cumsum(x, axis=0),
    "running sum from behind": lambda x: np.ascontiguousarray(np.cumsum(x[::-1], axis=0)[::-1]),
    "neighbour's row": lambda x: np.roll(x, 1, axis=0),
    "by its place": lambda x: x * np.arange(1, len(x) + 1, dtype=np.float32)[:, None],
    "by the number of rows": lambda x: x / np.float32(len(x)),
    "rank among rows": lambda x: np.argsort(np.argsort(x[:, 0]))[:, None].astype(np.int64),
    "place": lambda x: np.arange(len(x), dtype=np.int64)[:, None],
    "number of rows": lambda x: np.full((len(x), 1), len(x), np.int64),
}


@pytest.mark.parametrize("name", DEPENDENT)
@pytest.mark.parametrize("counts", [(1, 1), (1, 1, 1, 1, 1), (2, 1, 3), (3, 3)], ids=str)
def test_rows_that_depend_on_others_on_their_place_or_number_are_seen(name: str, counts: tuple[int, ...]) -> None:
    """The kind: any model whose answer to a row is another one in company."""
    assert all(judged(DEPENDENT[name], *drawn(*counts, seed=seed)) is not None for seed in range(20))


@pytest.mark.parametrize("scales", [(1.0, 1.1), (1.0, 1e-6), (1e6, 1.0)])
def test_an_int8_scale_is_seen_whatever_the_rows_scales(scales: tuple[float, float]) -> None:
    ones = np.random.default_rng(3).standard_normal((2, 1, 16)).astype(np.float32)
    assert judged(quantised, *(each * np.float32(scale) for each, scale in zip(ones, scales, strict=True))) is not None


INDEPENDENT: dict[str, Model] = {
    "linear": linear,
    "softmax": lambda x: np.exp(x - x.max(axis=1, keepdims=True)),
    "one column": lambda x: linear(x)[:, :1].copy(),
    "class": lambda x: linear(x).argmax(axis=1)[:, None].astype(np.int64),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_agree(name: str) -> None:
    assert all(judged(INDEPENDENT[name], *drawn(1, 3, 2, seed=seed)) is None for seed in range(50))


@pytest.mark.parametrize("error", [1e-6, 1e-4, 1e-2])
def test_what_rounding_leaves_where_terms_cancel_is_no_difference(error: float) -> None:
    """Sums of another order: relative to a value near zero they may be any part of it."""

    def other_order(x: Array) -> Array:
        return linear(x) + np.float32(error) * np.float32([[1e-3, 0, 0, 0]])

    batch = drawn(1, 1, 1, 1)
    batch[1][0] -= np.float32(linear(batch[1])[0, 0] / (WEIGHTS[:, 0] ** 2).sum()) * WEIGHTS[:, 0]
    assert judged(linear, *batch, alone=other_order) is None


def test_a_class_that_flips_on_a_tie_is_no_difference() -> None:
    """One row of many has another class alone, whatever its company: two classes are as good as equal."""

    def flipped(x: Array) -> Array:
        classes = linear(x).argmax(axis=1)[:, None].astype(np.int64)
        return np.where(x[:, :1] == 7.0, 3 - classes, classes)

    batch = drawn(1, 1, 1, 1)
    batch[2][0, 0] = 7.0
    assert judged(INDEPENDENT["class"], *batch, alone=flipped) is None


def test_replicas_that_round_otherwise_are_no_difference() -> None:
    """Joined on one replica, alone and once more in a crowd on the other."""
    calls = iter(range(100))

    def by_turns(x: Array) -> Array:
        return linear(x) * np.float32(1 + (3e-5 if next(calls) % 2 else 0))

    assert judged(by_turns, *drawn(1, 1, 1)) is None


def test_an_answer_of_another_form_is_a_difference() -> None:
    assert judged(lambda x: np.full((len(x), len(x)), 1.0, np.float32), *drawn(1, 1)) is not None


def test_a_sample_keeps_what_it_compares() -> None:
    """The batch's buffer, the callers' inputs and the answer may all be used again."""
    batch = drawn(1, 1)
    requests = [request(data) for data in batch]
    response = answered(linear, rows.join(requests, bytearray(rows.buffer_bytes(requests))))
    sample = Sample.of(requests, response)
    for data in (*batch, response.outputs[0].data):
        data[:] = 9.0

    async def ask(of: InferRequest) -> InferResponse:
        return answered(linear, of)

    assert asyncio.run(sample.difference(ask)) is None


def test_what_a_caller_alone_sent_is_not_asked_again() -> None:
    asked = []
    one = InferRequest(
        "m",
        request(drawn(1)[0]).inputs,
        version=1,
        variant="v",
        parameters={"a": 1},
        id="secret",
        deadline=5.0,
        callers=1,
    )
    response = InferResponse("m", "v", 1, (Tensor("y", "FP32", np.zeros((2, 1), np.float32)),))

    async def ask(of: InferRequest) -> InferResponse:
        asked.append(of)
        return answered(lambda x: np.zeros((len(x), 1), np.float32), of)

    asyncio.run(Sample.of([one, one], response).difference(ask))
    assert [(each.parameters, each.id, each.deadline) for each in asked] == [({}, "", None)] * 2


def test_a_call_that_fails_is_raised() -> None:
    async def ask(of: InferRequest) -> InferResponse:
        raise Internal("no")

    batch = [request(data) for data in drawn(1, 1)]
    response = InferResponse("m", "v", 1, (Tensor("y", "FP32", np.zeros((2, 1), np.float32)),))
    with pytest.raises(Internal):
        asyncio.run(Sample.of(batch, response).difference(ask))


def taken(turns: Turns, times: list[float]) -> list[int]:
    """Which of the batches at these times are asked again, each within no time."""
    found = []
    for index, now in enumerate(times):
        if turns.due(now):
            turns.begun(now)
            turns.ended(now, answered=True)
            found.append(index)
    return found


def test_of_the_first_thousand_more_are_taken_and_then_one_in_a_thousand() -> None:
    first = [0, 1, 3, 7, 15, 31, 63, 127, 255, 511]
    assert taken(Turns(0.001), [index * 1e-4 for index in range(4001)]) == [*first, 1511, 2511, 3511]


def test_one_a_minute_is_taken_at_least() -> None:
    assert taken(Turns(0.2), [0, 1, 59, 60]) == [0, 1, 3]
    late = taken(Turns(0.001), [*(index * 1e-4 for index in range(600)), 59, 61, 119, 121, 300])
    assert late[-3:] == [601, 603, 604]


def test_nothing_is_taken_where_the_share_is_0() -> None:
    assert taken(Turns(0.0), [0, 61, 200]) == []


def test_one_is_taken_at_a_time() -> None:
    turns = Turns(1.0)
    assert turns.due(0)
    turns.begun(0)
    assert not turns.due(1)
    assert not turns.due(100)
    turns.ended(100, answered=True)
    assert turns.due(100)


def test_what_was_not_answered_is_taken_again_after_a_second() -> None:
    turns = Turns(0.001)
    assert turns.due(0)
    turns.begun(0)
    turns.ended(0.5, answered=False)
    assert [turns.due(now) for now in (0.6, 1.4, 1.5)] == [False, False, True]
