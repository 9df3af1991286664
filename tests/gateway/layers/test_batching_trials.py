from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from gateway.types import InferRequest, Tensor
from tests.fakes.doubling import POISON, Doubling, ask
from tests.gateway.layers.batching_world import World, values


def test_rows_are_tried_together_before_they_are_joined() -> None:
    world = World(trusted=False)

    async def test() -> None:
        await asyncio.gather(*(world.layer.infer(ask(value)) for value in (1.0, 2.0, 3.0)))
        assert sorted(world.sizes()) == [1, 1, 1, 1, 1]  # two of them are the trial's
        await asyncio.sleep(1)
        assert world.sizes()[5:] == [3]
        await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(4)))
        assert world.sizes()[6:] == [1, 3]

    world.run(test())


class Normalising(Doubling):
    """Each row minus the mean of all rows: what TensorFlow and PyTorch would answer of such a model."""

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        return tuple(Tensor("y", "FP32", tensor.data - tensor.data.mean(axis=0)) for tensor in request.inputs)


class Summing(Doubling):
    """One row for all, though its signature leaves their number open."""

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        return tuple(Tensor("y", "FP32", tensor.data.sum(axis=0, keepdims=True)) for tensor in request.inputs)


class Running(Doubling):
    """Each row the sum of those before it, as a sequence's positions."""

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        return tuple(Tensor("y", "FP32", np.cumsum(tensor.data, axis=0)) for tensor in request.inputs)


class RunningBack(Doubling):
    """Each row the sum of those after it."""

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        return tuple(Tensor("y", "FP32", np.cumsum(tensor.data[::-1], axis=0)[::-1]) for tensor in request.inputs)


@pytest.mark.parametrize("model", [Normalising, Summing, Running, RunningBack])
@pytest.mark.parametrize("value", [0.0, 3.0], ids=["zeros", "same"])
def test_rows_that_depend_on_one_another_are_never_joined(
    model: type[Doubling], value: float, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(model(), trusted=False)
    expected = model().outputs(ask(value))[0].data.tolist()

    async def test() -> None:
        for _ in range(3):
            answers = await asyncio.gather(*(world.layer.infer(ask(value)) for _ in range(5)))
            assert all(answer.outputs[0].data.tolist() == expected for answer in answers)
            await asyncio.sleep(2)
        assert sorted(world.sizes())[-2:] == [1, 3]  # the trial, once

    with caplog.at_level(logging.WARNING, "duet.batching"):
        world.run(test())
    assert [record.getMessage() for record in caplog.records] == [
        "m@v version 1 is not batched: the answer to a row depends on the rows beside it"
    ]


def test_an_answer_without_its_rows_ends_the_joining() -> None:
    world = World()

    class Late(Summing):
        pass

    async def test() -> None:
        world.model.outputs = Late().outputs  # type: ignore[method-assign]  # from now on
        tasks = [world.send(ask(value)) for value in range(5)]
        assert [values(answer) for answer in await asyncio.gather(*tasks)] == [[0], [1], [2], [3], [4]]
        world.model.asked.clear()
        await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(4)))
        assert world.sizes() == [1, 1, 1, 1]

    world.run(test())


def test_a_trial_without_an_answer_is_made_again() -> None:
    world = World(trusted=False)

    async def test() -> None:
        await asyncio.gather(*(world.layer.infer(ask(POISON)) for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(2)
        await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(3)))
        await asyncio.sleep(2)
        world.model.asked.clear()
        await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(4)))
        assert world.sizes() == [1, 3]

    world.run(test())


def test_a_model_that_hands_its_input_through_keeps_its_answers() -> None:
    class Identity(Doubling):
        def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
            return tuple(Tensor("y", "FP32", tensor.data) for tensor in request.inputs)

    world = World(Identity())

    async def test() -> None:
        first = await asyncio.gather(*(world.layer.infer(ask(float(n))) for n in range(9)))
        await asyncio.gather(*(world.layer.infer(ask(100.0)) for _ in range(9)))
        assert [values(answer) for answer in first] == [[float(n)] for n in range(9)]

    world.run(test())


def test_a_version_that_is_gone_is_forgotten_and_the_next_is_tried_anew() -> None:
    world = World()

    async def test() -> None:
        world.model.versions = (2,)
        await asyncio.gather(*(world.layer.infer(ask(1.0, version=2)) for _ in range(4)))
        await asyncio.sleep(1)
        assert sorted(world.sizes()) == [1, 1, 1, 1, 1, 1, 3]
        assert {key[1] for key in world.layer._lanes} == {2}

    world.run(test())
