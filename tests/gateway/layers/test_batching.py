from __future__ import annotations

import asyncio

import pytest

from gateway.errors import DeadlineExceeded, Internal, InvalidArgument, Unavailable
from gateway.layers.queue import Limits
from gateway.types import InferRequest, InferResponse, Signature, TensorSpec
from tests.fakes.doubling import FAILING, POISON, SIGNATURE, Doubling, ask
from tests.gateway.layers.batching_world import World, values


def test_a_lone_request_goes_at_once_as_it_is() -> None:
    world = World()
    request = ask(1.0, 2.0)

    async def test() -> None:
        response = await world.layer.infer(request)
        assert values(response) == [2, 4]
        assert world.model.asked == [request]
        assert world.model.asked[0].inputs[0] is request.inputs[0]
        assert "queue" not in response.timings

    world.run(test())


def test_what_queued_while_the_server_was_busy_goes_out_as_one() -> None:
    world = World()

    async def test() -> None:
        answers = await asyncio.gather(*(world.layer.infer(ask(*range(n, 2 * n))) for n in (1, 2, 3)))
        assert [values(answer) for answer in answers] == [[2], [4, 6], [6, 8, 10]]
        assert world.sizes() == [1, 5]
        assert [answer.execution_rows for answer in answers] == [None, 5, 0]
        assert [sorted(answer.timings) for answer in answers] == [
            ["backend"],
            ["backend", "queue"],
            ["backend", "queue"],
        ]

    world.run(test())


def test_as_many_are_in_flight_as_the_server_works_on() -> None:
    world = World(Doubling(parallelism=3))

    async def test() -> None:
        await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(6)))
        assert world.sizes() == [1, 1, 1, 3]

    world.run(test())


def test_the_setting_goes_before_what_the_server_says() -> None:
    world = World(Doubling(parallelism=3), in_flight=2)

    async def test() -> None:
        await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(6)))
        assert world.sizes() == [1, 1, 4]

    world.run(test())


def test_a_batch_keeps_to_its_limits() -> None:
    world = World(limits=Limits(max_rows=4, max_bytes=1 << 20))

    async def test() -> None:
        await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(10)))
        assert world.sizes() == [1, 4, 4, 1]

    world.run(test())


@pytest.mark.parametrize("request_", [ask(*[1.0] * 40), ask(), ask(1.0, width=150_000)], ids=["rows", "none", "bytes"])
def test_what_can_have_no_company_does_not_wait(request_: InferRequest) -> None:
    world = World()

    async def test() -> None:
        first = world.send(ask(1.0))
        await asyncio.sleep(0)
        await world.layer.infer(request_)
        assert world.model.in_flight == 0
        await first
        assert world.sizes() == [1, request_.rows]

    world.run(test())


def test_only_equal_inner_shapes_are_joined() -> None:
    world = World()

    async def test() -> None:
        await asyncio.gather(*(world.layer.infer(ask(1.0, width=width)) for width in (1, 1, 2, 1, 2)))
        assert [request.inputs[0].shape for request in world.model.asked] == [(1, 1), (2, 1), (2, 2)]

    world.run(test())


def test_versions_are_not_mixed() -> None:
    model = Doubling()
    model.versions = (1, 2)
    world = World(model)

    async def test() -> None:
        first = [world.send(ask(1.0, version=version)) for version in (1, 2, 1, 1, 2, 2)]
        assert [response.version for response in await asyncio.gather(*first)] == [1, 2, 1, 1, 2, 2]

    world.run(test())


def test_a_bad_request_fails_alone() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(value)) for value in (0, 1, 2, POISON, 4, FAILING, 6, 7)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        right = [values(answer) for answer in answers if isinstance(answer, InferResponse)]
        assert right == [[0], [2], [4], [8], [12], [14]]
        assert [type(answers[3]), type(answers[5])] == [InvalidArgument, Internal]

    world.run(test())


def test_a_server_that_is_away_is_asked_once_for_all() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(value)) for value in range(9)]
        await asyncio.sleep(0)
        world.model.away = True
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert values(answers[0]) == [0]  # type: ignore[arg-type]
        assert {type(answer) for answer in answers[1:]} == {Unavailable}
        assert len({id(answer) for answer in answers[1:]}) == 8
        assert {answer.retry_after_seconds for answer in answers[1:]} == {1}  # type: ignore[union-attr]
        assert world.sizes() == [1, 8]

    world.run(test())


def test_a_caller_that_leaves_the_queue_is_not_sent() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(value)) for value in range(4)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[2], asyncio.CancelledError)
        assert world.sizes() == [1, 2]

    world.run(test())


def test_a_caller_that_leaves_its_batch_does_not_harm_it() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(value)) for value in range(4)]
        await asyncio.sleep(0.015)
        tasks[2].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [values(answers[place]) for place in (0, 1, 3)] == [[0], [2], [6]]  # type: ignore[arg-type]
        assert world.model.given_up == 0

    world.run(test())


def test_a_batch_that_nobody_waits_for_is_given_up() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(value)) for value in range(4)]
        await asyncio.sleep(0.015)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert world.model.given_up == 1

    world.run(test())


def test_a_batch_that_all_left_before_it_began_gives_its_place_back() -> None:
    world = World()

    async def test() -> None:
        first = world.send(ask(0.0))
        others = [world.send(ask(1.0)) for _ in range(3)]
        first.add_done_callback(lambda _: [task.cancel() for task in others])
        await asyncio.gather(first, *others, return_exceptions=True)
        await asyncio.sleep(1)
        assert values(await world.layer.infer(ask(3.0))) == [6]

    world.run(test())


def test_what_is_too_late_is_not_sent() -> None:
    world = World()

    async def test() -> None:
        now = asyncio.get_running_loop().time()
        tasks = [world.send(ask(0.0)), world.send(ask(1.0, deadline=now + 0.005)), world.send(ask(2.0))]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[1], DeadlineExceeded)
        assert [request.inputs[0].data.tolist() for request in world.model.asked] == [[[0.0]], [[2.0]]]
        with pytest.raises(DeadlineExceeded):
            await world.layer.infer(ask(1.0, deadline=now))
        assert len(world.model.asked) == 2

    world.run(test())


def test_a_call_that_hangs_does_not_hold_up_the_others_for_ever() -> None:
    world = World()

    async def test() -> None:
        world.model.seconds = 1000
        stuck = world.send(ask(0.0))
        await asyncio.sleep(0)
        world.model.seconds = 0.01
        start = asyncio.get_running_loop().time()
        assert values(await world.layer.infer(ask(1.0))) == [2]
        assert asyncio.get_running_loop().time() - start < 2
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)

    world.run(test())


def test_a_model_can_be_left_as_it_is() -> None:
    world = World()

    async def test() -> None:
        requests = [InferRequest("off", ask(1.0).inputs, version=1, signature_name="f") for _ in range(4)]
        await asyncio.gather(*(world.layer.infer(request) for request in requests))
        assert world.sizes() == [1, 1, 1, 1]

    world.run(test())


def test_a_signature_without_a_free_first_dimension_is_left_as_it_is() -> None:
    fixed = Signature(SIGNATURE.inputs, (TensorSpec("y", "FP32", (1,)),))
    world = World(Doubling(signature=fixed))

    async def test() -> None:
        for _ in range(2):
            await asyncio.gather(*(world.layer.infer(ask(1.0)) for _ in range(4)))
        assert world.sizes() == [1] * 8

    world.run(test())


def test_batches_and_their_waiting_are_counted() -> None:
    world = World()
    labels = {"model": "m", "variant": "v", "version": "1"}

    async def test() -> None:
        before = {name: world.registry.get_sample_value(name, labels) or 0 for name in counted}
        await asyncio.gather(*(world.layer.infer(ask(1.0, 1.0)) for _ in range(4)))
        after = {name: world.registry.get_sample_value(name, labels) or 0 for name in counted}
        assert [after[name] - before[name] for name in counted] == [2, 8, 3]

    counted = ("duet_batch_rows_count", "duet_batch_rows_sum", "duet_queue_seconds_count")
    world.run(test())


def test_the_end_answers_all_who_wait() -> None:
    world = World()

    async def test() -> None:
        tasks = [world.send(ask(1.0)) for _ in range(4)]
        await asyncio.sleep(0.015)
        tasks += [world.send(ask(1.0)) for _ in range(2)]
        await asyncio.sleep(0)
        await world.layer.aclose()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [InferResponse, *[Unavailable] * 5]

    world.run(test())
