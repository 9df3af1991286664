from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gateway.errors import DeadlineExceeded, InvalidArgument
from gateway.layers.cache import Cache
from gateway.layers.gate import Refused
from gateway.metrics import Metrics
from gateway.types import Criticality, InferRequest, InferResponse, Payload, Tensor
from tests.fakes.doubling import POISON, Doubling, ask
from tests.fakes.simulated import simulate


class World:
    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.model = Doubling()
        self.registry = CollectorRegistry()
        self.cache = Cache(self.model, max_bytes={"m": max_bytes}, metrics=Metrics(self.registry), variant="v")

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        async def whole() -> None:
            await test
            await asyncio.sleep(1)
            assert not self.model.in_flight
            assert not any(shelf.asked for shelf in self.cache._shelves.values())

        simulate(whole())

    def send(self, request: InferRequest) -> asyncio.Task[InferResponse]:
        return asyncio.create_task(self.cache.infer(request))

    def counted(self, outcome: str) -> float:
        labels = {"model": "m", "variant": "v", "outcome": outcome}
        return self.registry.get_sample_value("duet_cache_requests_total", labels) or 0

    def kept_bytes(self) -> float:
        return self.registry.get_sample_value("duet_cache_bytes", {"model": "m", "variant": "v"}) or 0


def first(response: InferResponse) -> float:
    return float(response.outputs[0].data[0, 0])


def test_the_same_bytes_are_asked_once() -> None:
    world = World()

    async def test() -> None:
        answers = [await world.cache.infer(ask(3.0)) for _ in range(3)]
        assert [first(answer) for answer in answers] == [6, 6, 6]
        assert len(world.model.asked) == 1
        assert (world.counted("miss"), world.counted("hit")) == (1, 2)
        assert [sorted(answer.timings) for answer in answers] == [
            ["backend", "cache_miss"],
            ["cache_hit"],
            ["cache_hit"],
        ]
        assert [answer.execution_rows for answer in answers] == [None, 0, 0]

    world.run(test())


def variants() -> list[InferRequest]:
    """Requests of which no two may have one answer."""
    plain = ask(0.0)
    bits = np.array([[np.nan]], np.float32)
    other_nan = (bits.view(np.uint32) + 1).view(np.float32)
    texts = [np.array(items, object) for items in ([b"ab", b"c"], [b"a", b"bc"], [b"", b"abc"])]
    return [
        plain,
        ask(-0.0),
        ask(0.0, 0.0),
        ask(0.0, width=2),
        ask(0.0, version=2),
        replace(plain, signature_name="g"),
        replace(plain, outputs=("y",)),
        replace(plain, outputs=("y", "z")),
        replace(plain, inputs=(Tensor("w", "FP32", plain.inputs[0].data),)),
        replace(plain, inputs=(Tensor("x", "INT32", np.zeros((1, 1), np.int32)),)),
        replace(plain, inputs=(Tensor("x", "FP32", bits),)),
        replace(plain, inputs=(Tensor("x", "FP32", other_nan),)),
        *(replace(plain, inputs=(Tensor("x", "BYTES", text),)) for text in texts),
    ]


def test_whatever_differs_is_asked_anew() -> None:
    class Numbering(Doubling):
        """Each answer is another."""

        def answer(self, request: InferRequest) -> InferResponse:
            number = np.array([[len(self.asked)]], np.float32)
            return InferResponse("m", "v", request.version or 0, (Tensor("y", "FP32", number),))

    world = World()
    world.model.answer = Numbering().answer  # type: ignore[method-assign]

    async def test() -> None:
        for request in variants():
            await world.cache.infer(request)
        assert len(world.model.asked) == len(variants())
        for request in variants():
            await world.cache.infer(request)
        assert len(world.model.asked) == len(variants())

    world.run(test())


def test_what_does_not_matter_to_the_answer_is_not_in_the_key() -> None:
    world = World()

    async def test() -> None:
        await world.cache.infer(ask(1.0))
        await world.cache.infer(replace(ask(1.0), id="7", parameters={"a": 1}, deadline=99.0))
        assert len(world.model.asked) == 1

    world.run(test())


def test_a_large_input_is_hashed_too() -> None:
    world = World(64 << 20)

    async def test() -> None:
        large = ask(1.0, width=600_000)
        answers = [await world.cache.infer(large) for _ in range(2)]
        assert first(answers[1]) == 2
        assert len(world.model.asked) == 1

    # Not on the simulated loop: it does not wait for threads.
    asyncio.run(test())


def test_the_same_requests_in_flight_share_one_call() -> None:
    world = World()

    async def test() -> None:
        answers = await asyncio.gather(*(world.cache.infer(ask(1.0)) for _ in range(5)))
        assert [first(answer) for answer in answers] == [2] * 5
        assert len(world.model.asked) == 1
        assert (world.counted("miss"), world.counted("joined")) == (1, 4)
        assert sum(answer.execution_rows is None for answer in answers) == 1

    world.run(test())


@pytest.mark.parametrize("leaving", [0, 1])
def test_one_that_leaves_does_not_harm_the_others(leaving: int) -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(1.0)) for _ in range(3)]
        await asyncio.sleep(0.005)
        tasks[leaving].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers.pop(leaving), asyncio.CancelledError)
        assert [first(answer) for answer in answers] == [2, 2]  # type: ignore[arg-type]
        assert len(world.model.asked) == 1

    world.run(test())


def test_a_call_that_all_left_is_given_up_and_the_next_asks_anew() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(1.0)) for _ in range(3)]
        await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0)
        assert first(await world.cache.infer(ask(1.0))) == 2
        await asyncio.gather(*tasks, return_exceptions=True)
        assert world.model.given_up == 1

    world.run(test())


def test_failures_go_to_all_who_asked_and_are_not_kept() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(POISON)) for _ in range(3)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [InvalidArgument] * 3
        assert len({id(answer) for answer in answers}) == 3
        with pytest.raises(InvalidArgument):
            await world.cache.infer(ask(POISON))
        assert len(world.model.asked) == 2

    world.run(test())


def test_the_deadline_of_the_first_is_not_that_of_the_others() -> None:
    class Punctual(Doubling):
        async def infer(self, request: InferRequest) -> InferResponse:
            try:
                async with asyncio.timeout_at(request.deadline):
                    return await super().infer(request)
            except TimeoutError:
                raise DeadlineExceeded("too late") from None

    world = World()
    world.model.__class__ = Punctual

    async def test() -> None:
        tasks = [world.send(replace(ask(1.0), deadline=deadline)) for deadline in (0.005, 0.006, 9.0)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [DeadlineExceeded, DeadlineExceeded, InferResponse]

    world.run(test())


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first() -> None:
    world = World(max_bytes=3 * (1024 + 400))

    async def test() -> None:
        for value in (1, 2, 3):
            await world.cache.infer(ask(value, width=100))
        await world.cache.infer(ask(1, width=100))
        await world.cache.infer(ask(4, width=100))
        world.model.asked.clear()
        for value in (1, 3, 4):
            await world.cache.infer(ask(value, width=100))
        assert not world.model.asked
        await world.cache.infer(ask(2, width=100))
        assert len(world.model.asked) == 1
        assert world.kept_bytes() == 3 * (1024 + 400)
        await world.cache.infer(ask(1, width=10_000))
        assert world.kept_bytes() == 3 * (1024 + 400)

    world.run(test())


def test_a_kept_answer_does_not_keep_the_batch_that_it_came_with() -> None:
    world = World()

    async def test() -> None:
        await world.cache.infer(ask(1.0, 2.0))
        (kept,) = (await world.cache.infer(ask(1.0, 2.0))).outputs
        assert kept.data.base is None
        assert not kept.data.flags.writeable

    world.run(test())


def test_a_change_of_versions_clears_and_calls_on_their_way_are_not_kept() -> None:
    world = World()

    async def test() -> None:
        await world.cache.infer(ask(1.0))
        running = world.send(ask(2.0))
        await asyncio.sleep(0.005)
        world.cache.forget("m")
        world.cache.forget("unknown")
        assert world.kept_bytes() == 0
        assert first(await running) == 4
        world.model.asked.clear()
        for value in (1.0, 2.0):
            await world.cache.infer(ask(value))
        assert len(world.model.asked) == 2

    world.run(test())


def test_models_without_a_cache_and_opaque_bodies_pass_through() -> None:
    world = World()

    async def test() -> None:
        other = replace(ask(1.0), model="other")
        opaque = replace(ask(1.0), payload=Payload(b"", None))
        for request in (other, other, opaque, opaque):
            await world.cache.infer(request)
        assert len(world.model.asked) == 4

    world.run(test())


class Busy(Doubling):
    """Refuses what is not critical, as `gateway.layers.limit` does under load."""

    async def infer(self, request: InferRequest) -> InferResponse:
        await asyncio.sleep(0.01)
        if request.criticality is not Criticality.CRITICAL:
            raise Refused(request.model, "is busy", "queue")
        return await super().infer(request)


def test_a_refusal_reaches_all_who_share_it_and_nobody_who_is_more_critical() -> None:
    """The kind: an error of one caller's standing is not handed to a caller of another, whoever asked first."""
    world = World()
    world.model = Busy()
    world.cache.inner = world.model

    async def test() -> None:
        orders = [Criticality.SHEDDABLE, Criticality.CRITICAL, Criticality.DEFAULT, Criticality.SHEDDABLE]
        tasks = [world.send(replace(ask(3.0), criticality=criticality)) for criticality in orders]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert [type(error) for error in refused] == [Refused, Refused, Refused]
        assert len(set(map(id, refused))) == 3
        critical = answers[1]
        assert isinstance(critical, InferResponse)
        assert first(critical) == 6

    world.run(test())
