"""Random small models behind the layer, with right words about their rows, wrong ones and none.

Where nothing is declared, every answer is what the request is answered alone. Where a wrong word is believed, the first
joined batch is asked again: either all of its callers had right answers, or batching is off from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.types import Array, InferRequest, Rows, Tensor
from tests.fakes.doubling import SIGNATURE, Doubling
from tests.fakes.simulated import simulate
from tests.gateway.layers.batching_world import World

WIDTH = 6

Step = Callable[[Array], Array]


def weighted(seed: int) -> Step:
    weights = np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    return lambda x: x @ weights


def quantised(x: Array) -> Array:
    scale = max(float(np.abs(x).max()), 1e-6) / 127
    return np.round(x / scale).astype(np.float32) * np.float32(scale)


APART: list[Step] = [
    lambda x: np.maximum(x, 0),
    lambda x: np.tanh(x) + x,
    lambda x: x - x.mean(axis=1, keepdims=True),
    lambda x: np.exp(x - x.max(axis=1, keepdims=True)),
    lambda x: np.cumsum(x, axis=1),
    weighted(1),
    weighted(2),
]
TOGETHER: list[Step] = [
    lambda x: x - x.mean(axis=0),
    lambda x: x / np.maximum(np.abs(x).max(), 1e-6),
    lambda x: (x - x.min()) / np.maximum(x.max() - x.min(), 1e-6),
    lambda x: np.cumsum(x, axis=0),
    lambda x: np.cumsum(x[::-1], axis=0)[::-1],
    lambda x: np.roll(x, 1, axis=0),
    lambda x: x * np.arange(1, len(x) + 1, dtype=np.float32)[:, None],
    lambda x: x / np.float32(len(x)),
    lambda x: x @ (x.T @ x),
    quantised,
]


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    depends: bool
    artifact: Rows
    said: Rows | None
    requests: list[tuple[int, float, int]]

    def compute(self, x: Array) -> Array:
        for step in self.steps:
            x = step(x)
        return np.ascontiguousarray(x, np.float32)


class Drawn(Doubling):
    def __init__(self, plan: Plan) -> None:
        super().__init__(signature=replace(SIGNATURE, rows=plan.artifact))
        self.plan = plan

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        return (Tensor("y", "FP32", self.plan.compute(request.inputs[0].data)),)

    def fault(self, tensor: Tensor) -> None:
        return None


@st.composite
def plans(draw: st.DrawFn, *, declared: bool) -> Plan:
    steps = draw(st.lists(st.sampled_from(APART), min_size=1, max_size=3))
    depends = draw(st.booleans())
    if depends:
        steps.insert(draw(st.integers(0, len(steps))), draw(st.sampled_from(TOGETHER)))
    artifact, said = (
        draw(st.sampled_from([(Rows.INDEPENDENT, None), (Rows.UNKNOWN, Rows.INDEPENDENT)]))
        if declared
        else draw(
            st.sampled_from([(Rows.UNKNOWN, None), (Rows.DEPENDENT, Rows.INDEPENDENT), (Rows.UNKNOWN, Rows.DEPENDENT)])
        )
    )
    one = st.tuples(st.integers(1, 3), st.sampled_from([0.1, 1.0, 1.0, 10.0]), st.integers(0, 5))
    return Plan(tuple(steps), depends, artifact, said, draw(st.lists(one, min_size=4, max_size=12)))


def asked(plan: Plan) -> list[InferRequest]:
    """Some of them are the same: that is how the first callers may happen to look."""
    found = []
    for rows, scale, seed in plan.requests:
        data = (np.random.default_rng(seed).standard_normal((rows, WIDTH)) * scale).astype(np.float32)
        found.append(InferRequest("m", (Tensor("x", "FP32", data),), version=1, variant="v", signature_name="f"))
    return found


def near(one: Array, other: Array) -> bool:
    """Within a thousandth of each row's greatest value."""
    scale = np.abs(other).max(axis=1, keepdims=True)
    return bool((np.abs(one - other) <= 1e-3 * scale).all())


async def answers(world: World, plan: Plan) -> list[tuple[Array, Array]]:
    """What came, and what each is answered alone."""
    requests = asked(plan)
    found = await asyncio.gather(*(world.layer.infer(request) for request in requests))
    return [
        (answer.outputs[0].data, plan.compute(request.inputs[0].data))
        for request, answer in zip(requests, found, strict=True)
    ]


QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@given(plan=plans(declared=False))
@settings(QUICK, max_examples=60)
def test_without_a_word_every_answer_is_the_one_alone(plan: Plan) -> None:
    async def run() -> None:
        world = World(Drawn(plan), said=plan.said, sample_share=1.0)
        for _ in range(2):
            assert all(np.array_equal(came, alone) for came, alone in await answers(world, plan))
        assert world.count("samples") == 0

    simulate(run())


def by_place(*rows: int) -> Plan:
    """Requests with one and the same row, and a model in which a row's place counts: their company shows nothing."""
    requests = [(1, 1.0, 0), *((count, 0.1, 0) for count in rows)]
    return Plan((TOGETHER[6], APART[0]), True, Rows.INDEPENDENT, None, requests)


@given(plan=plans(declared=True))
@example(plan=by_place(3, 1, 1))
@example(plan=by_place(3, 1))
@example(plan=by_place(3, 3, 3, 1))
@settings(QUICK, max_examples=120)
def test_a_word_is_right_or_the_first_batch_shows_it(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        caplog.clear()
        world = World(Drawn(plan), said=plan.said, sample_share=1e-9)
        first = await answers(world, plan)
        await asyncio.sleep(10)
        told: dict[str, Any] = world.told()
        logged = [record for record in caplog.records if record.levelname == "ERROR"]
        joined = any(request.rows > 3 for request in world.model.asked)
        if not plan.depends:
            assert all(near(came, alone) for came, alone in first)
            assert (told["joined"], world.count("differences"), logged) == (True, 0, [])
            return
        # Of a batch with right answers alone nobody can tell that the word was wrong.
        if told["joined"]:
            assert not joined or all(near(came, alone) for came, alone in first[1:] if world.count("samples"))
            return
        assert (world.count("differences"), len(logged)) == (1, 1)
        world.model.asked.clear()
        assert all(np.array_equal(came, alone) for came, alone in await answers(world, plan))
        assert len(world.model.asked) == len(plan.requests)

    with caplog.at_level(logging.ERROR, "duet.batching"):
        simulate(run())
