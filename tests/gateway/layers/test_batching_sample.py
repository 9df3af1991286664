"""Whose requests are joined, and what happens once a joined answer turns out to be wrong."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import numpy as np
import pytest

from gateway.errors import DuetError, InvalidArgument, Unavailable
from gateway.layers.queue import Limits
from gateway.types import InferRequest, InferResponse, Rows, ServerBatching, Signature, Tensor, TensorSpec
from tests.fakes.doubling import SIGNATURE, Doubling, ask
from tests.gateway.layers.batching_world import World, values

UNKNOWN = replace(SIGNATURE, rows=Rows.UNKNOWN)
DEPENDENT = replace(SIGNATURE, rows=Rows.DEPENDENT)


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


class Scaling(Doubling):
    """One int8 scale for all rows."""

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        scale = max(float(np.abs(request.inputs[0].data).max()), 1.0) / 127
        return tuple(
            Tensor("y", "FP32", (np.round(tensor.data / scale) * scale).astype(np.float32)) for tensor in request.inputs
        )


ALL = [Normalising, Summing, Running, RunningBack, Scaling]
#: Equal rows are what a trial with two requests could not tell apart.
ASKED = [3.0, 3.0, 3.0, 1.7, 0.3]


def alone(model: type[Doubling], value: float) -> list[float]:
    return [float(each) for each in model().outputs(ask(value))[0].data[:, 0]]


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("signature", [UNKNOWN, DEPENDENT], ids=["unknown", "dependent"])
def test_rows_that_nobody_knows_to_be_independent_are_never_joined(model: type[Doubling], signature: Signature) -> None:
    """The kind: a model whose rows depend on one another, and whose artifact does not call them independent."""
    world = World(model(signature=signature), sample_share=1.0)

    async def test() -> None:
        for _ in range(3):
            assert await world.ask_all(*ASKED) == [alone(model, value) for value in ASKED]
            await asyncio.sleep(61)
        assert set(world.sizes()) == {1}
        assert world.told()["joined"] is False

    world.run(test())


def test_rows_that_are_not_known_are_logged_once_with_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    world = World(Doubling(signature=UNKNOWN))

    async def test() -> None:
        for _ in range(3):
            await world.ask_all(*ASKED)

    with caplog.at_level(logging.INFO, "duet.batching"):
        world.run(test())
    (record,) = caplog.records
    assert record.getMessage().startswith("m@v version 1 is not batched: ")
    assert "set models.m.batching.rows: independent" in record.getMessage()


@pytest.mark.parametrize(
    ("signature", "said", "joined"),
    [
        (SIGNATURE, None, True),
        (UNKNOWN, Rows.INDEPENDENT, True),
        (SIGNATURE, Rows.DEPENDENT, False),
        (DEPENDENT, Rows.INDEPENDENT, False),
        (UNKNOWN, None, False),
    ],
)
def test_the_artifacts_word_and_the_operators_word_count(signature: Signature, said: Rows | None, joined: bool) -> None:
    world = World(Doubling(signature=signature), said=said)

    async def test() -> None:
        await world.ask_all(*ASKED)
        assert world.sizes() == ([1, 4] if joined else [1] * 5)
        assert world.told()["joined"] is joined

    world.run(test())


def test_a_server_that_batches_is_never_sent_more_rows_than_it_takes() -> None:
    """However many the gateway's own setting allows, and whatever else says that rows are independent."""
    for signature in (UNKNOWN, SIGNATURE):
        model = Doubling(signature=signature)
        model.batching = ServerBatching("its own configuration", 3)
        world = World(model)

        async def test(world: World = world) -> None:
            await world.ask_all(*range(9))
            await asyncio.gather(*(world.layer.infer(ask(1.0, 1.0)) for _ in range(4)))
            assert world.sizes() == [1, 3, 3, 2, 2, 2, 2, 2]

        world.run(test())


def test_a_server_that_bounds_nothing_leaves_the_gateways_bound() -> None:
    model = Doubling(signature=UNKNOWN)
    model.batching = ServerBatching("its own configuration")
    world = World(model, limits=Limits(max_rows=4))

    async def test() -> None:
        await world.ask_all(*range(9))
        assert world.sizes() == [1, 4, 4]

    world.run(test())


@pytest.mark.parametrize("model", ALL)
def test_a_wrong_word_is_found_out_by_the_first_batch(model: type[Doubling], caplog: pytest.LogCaptureFixture) -> None:
    """The kind: any model whose rows depend on one another, called independent by whom one has to believe."""
    world = World(model(signature=UNKNOWN), said=Rows.INDEPENDENT, sample_share=0.001)

    async def test() -> None:
        await world.ask_all(*ASKED)
        await asyncio.sleep(1)
        assert (world.count("differences"), world.told()["joined"]) == (1, False)
        world.model.asked.clear()
        for _ in range(3):
            assert await world.ask_all(*ASKED) == [alone(model, value) for value in ASKED]
        assert set(world.sizes()) == {1}

    with caplog.at_level(logging.INFO, "duet.batching"):
        world.run(test())
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    message = record.getMessage()
    assert message.startswith("m@v version 1 is no longer batched: ")
    assert "the setting batching.rows says so" in message
    assert "models.m.batching.rows: dependent" in message
    assert ("did not have a row for each" if model is Summing else "output 'y' differs") in message


def test_an_answer_without_its_rows_ends_the_joining_and_is_given_to_nobody() -> None:
    world = World()

    async def test() -> None:
        world.model.outputs = Summing().outputs  # type: ignore[method-assign]  # from now on
        assert await world.ask_all(*range(5)) == [[0], [1], [2], [3], [4]]
        assert (world.count("differences"), world.told()["joined"]) == (1, False)
        world.model.asked.clear()
        await world.ask_all(1.0, 1.0, 1.0, 1.0)
        assert world.sizes() == [1, 1, 1, 1]

    world.run(test())


@pytest.mark.parametrize(("seconds", "joined"), [(1.0, [2, 3]), (2.4, [2])], ids=["on-its-way", "waiting"])
def test_what_waits_or_is_on_its_way_when_it_turns_off_is_asked_alone(seconds: float, joined: list[int]) -> None:
    """Nobody is given a joined answer once it is known that it may be wrong."""
    world = World(Running(signature=UNKNOWN), said=Rows.INDEPENDENT, sample_share=1.0)
    world.layer._again = Running(seconds=0.5)  # five calls: it is known after two and a half seconds

    async def test() -> None:
        await world.ask_all(1.0, 2.0, 3.0)
        await asyncio.sleep(seconds)
        world.model.seconds = 3
        assert await world.ask_all(4.0, 5.0, 6.0, 7.0) == [[4.0], [5.0], [6.0], [7.0]]
        assert [size for size in world.sizes() if size > 1] == joined

    world.run(test())


def test_all_signatures_of_the_version_are_off_and_no_other_version() -> None:
    model = Normalising(signature=SIGNATURE)
    model.others = {"g": SIGNATURE}
    model.versions = (1, 2)
    world = World(model, sample_share=0.001)

    async def test() -> None:
        await world.ask_all(*ASKED)
        await asyncio.sleep(1)
        assert not world.told(1, "f")["joined"]
        assert not world.told(1, "g")["joined"]
        assert world.told(2, "f")["joined"]
        world.model.asked.clear()
        await asyncio.gather(*(world.layer.infer(replace(ask(1.0), signature_name="g")) for _ in range(4)))
        assert world.sizes() == [1, 1, 1, 1]

    world.run(test())


@pytest.mark.parametrize("what", ["number", "artifact", "signature"])
def test_another_version_begins_anew(what: str) -> None:
    """Another number, another artifact under the same number, or one with another signature."""
    world = World(Normalising(), sample_share=0.001)

    async def test() -> None:
        await world.ask_all(*ASKED)
        await asyncio.sleep(1)
        assert not world.told()["joined"]
        world.model.outputs = Doubling().outputs  # type: ignore[method-assign]
        if what == "number":
            world.model.versions = (2,)
        elif what == "artifact":
            world.model.artifact = "another"
        else:
            world.model.signature = replace(SIGNATURE, outputs=(TensorSpec("y", "FP32", (-1, 1)),))
        version = 2 if what == "number" else 1
        assert world.told(version)["joined"]
        world.model.asked.clear()
        await asyncio.gather(*(world.layer.infer(ask(1.0, version=version)) for _ in range(4)))
        assert world.sizes()[:2] == [1, 3]
        await asyncio.sleep(1)
        assert world.sizes() == [1, 3, 1, 1, 1]  # and the first batch is asked again

    world.run(test())


def test_a_version_that_was_not_ready_for_a_while_stays_off() -> None:
    world = World(Normalising(), sample_share=0.001)

    async def test() -> None:
        await world.ask_all(*ASKED)
        await asyncio.sleep(1)
        world.model.ready = False
        await world.ask_all(*ASKED)
        world.model.ready = True
        assert not world.told()["joined"]

    world.run(test())


def test_an_order_that_a_twin_gives_makes_no_other_version() -> None:
    inputs = (TensorSpec("x", "FP32", (-1, -1)), TensorSpec("z", "FP32", (-1, -1)))
    signature = Signature(inputs, SIGNATURE.outputs, rows=Rows.INDEPENDENT)
    world = World(Normalising(signature=signature), sample_share=0.001)

    async def test() -> None:
        two = [replace(ask(value), inputs=(ask(value).inputs[0], ask(value).inputs[0])) for value in ASKED]
        await asyncio.gather(*(world.layer.infer(request) for request in two), return_exceptions=True)
        await asyncio.sleep(1)
        assert not world.told()["joined"]
        world.model.signature = replace(signature, inputs=inputs[::-1])
        assert not world.told()["joined"]

    world.model.outputs = lambda request: Normalising().outputs(replace(request, inputs=request.inputs[:1]))  # type: ignore[method-assign]
    world.run(test())


def test_samples_are_taken_in_the_background_and_counted() -> None:
    world = World(sample_share=0.001)

    async def test() -> None:
        start = asyncio.get_running_loop().time()
        await world.ask_all(1.0, 2.0, 3.0)
        assert asyncio.get_running_loop().time() - start == pytest.approx(0.02)
        assert world.count("samples") == 0
        await asyncio.sleep(0.1)
        assert (world.count("samples"), world.count("differences")) == (1, 0)
        assert world.sizes() == [1, 2, 1, 1]
        assert world.told() == {
            "rows": "independent",
            "joined": True,
            "why": "its artifact says so",
            "samples": 1,
            "differences": 0,
        }

    world.run(test())


def test_samples_go_their_own_way() -> None:
    """Around what counts retries and times calls, so that no caller pays for them."""
    world = World(sample_share=1.0)
    own = Doubling()
    world.layer._again = own

    async def test() -> None:
        await world.ask_all(1.0, 2.0, 3.0)
        await asyncio.sleep(1)
        assert world.sizes() == [1, 2]
        assert [request.rows for request in own.asked] == [1, 1]

    world.run(test())


class Failing(Doubling):
    """Fails requests of one row from a certain call on."""

    def __init__(self, error: DuetError | Exception) -> None:
        super().__init__()
        self.error = error
        self.fails = False

    async def infer(self, request: InferRequest) -> InferResponse:
        if self.fails and request.rows == 1:
            self.asked.append(request)
            raise self.error
        return await super().infer(request)


@pytest.mark.parametrize(
    "error",
    [InvalidArgument("bad row"), Unavailable("away", retry_after_seconds=1), RuntimeError("a defect")],
    ids=["bad-request", "away", "defect"],
)
def test_a_request_that_fails_alone_proves_nothing_and_another_batch_is_taken_later(error: Exception) -> None:
    """The kind: a sample that gets no answer, whoever is to blame for it."""
    own = Failing(error)
    world = World(sample_share=1e-9)
    world.layer._again = own

    async def test() -> None:
        own.fails = True
        await world.ask_all(1.0, 2.0, 3.0)
        await asyncio.sleep(0.5)
        assert world.told()["joined"]
        assert (len(own.asked), world.count("samples"), world.count("differences")) == (1, 0, 0)
        await world.ask_all(1.0, 2.0, 3.0)  # too soon
        assert len(own.asked) == 1
        own.fails = False
        await asyncio.sleep(1)
        await world.ask_all(1.0, 2.0, 3.0)
        await asyncio.sleep(0.5)
        assert (world.count("samples"), world.told()["joined"]) == (1, True)

    world.run(test())


def test_a_sample_that_hangs_is_given_up() -> None:
    world = World(sample_share=1e-9)
    own = Doubling(seconds=1e6)
    world.layer._again = own

    async def test() -> None:
        await world.ask_all(1.0, 2.0, 3.0)
        assert not world.layer.idle
        await asyncio.sleep(31)
        assert world.layer.idle
        assert own.given_up == 1
        assert world.told()["joined"]

    world.run(test())


def test_another_artifact_ends_a_sample_of_the_one_before() -> None:
    """Alone it would be asked of the new one, joined it was asked of the old one."""
    world = World(sample_share=1e-9)
    own = Doubling(seconds=1e6)
    world.layer._again = own

    async def test() -> None:
        await world.ask_all(1.0, 2.0, 3.0)
        world.model.artifact = "another"
        await world.ask_all(1.0)
        assert own.given_up == 1
        assert world.told()["joined"]

    world.run(test())


def test_the_end_gives_up_a_sample() -> None:
    world = World(sample_share=1.0)
    own = Doubling(seconds=1e6)
    world.layer._again = own

    async def test() -> None:
        await world.ask_all(1.0, 2.0, 3.0)
        await asyncio.sleep(0)
        await world.layer.aclose()
        await asyncio.sleep(0)
        assert own.in_flight == 0

    world.run(test())


def test_a_model_that_hands_its_input_through_keeps_its_answers() -> None:
    class Identity(Doubling):
        def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
            return tuple(Tensor("y", "FP32", tensor.data) for tensor in request.inputs)

    world = World(Identity(), sample_share=1.0)

    async def test() -> None:
        first = await asyncio.gather(*(world.layer.infer(ask(float(n))) for n in range(9)))
        await asyncio.gather(*(world.layer.infer(ask(100.0)) for _ in range(9)))
        assert [values(answer) for answer in first] == [[float(n)] for n in range(9)]
        await asyncio.sleep(1)
        assert world.told()["joined"]

    world.run(test())


def test_a_version_that_is_gone_is_forgotten() -> None:
    world = World(sample_share=0.001)

    async def test() -> None:
        await world.ask_all(1.0, 2.0)
        world.model.versions = (2,)
        await asyncio.gather(*(world.layer.infer(ask(1.0, version=2)) for _ in range(4)))
        await asyncio.sleep(1)
        assert {key[1] for key in world.layer._lanes} == {2}
        assert {number for _, number in world.layer._evidence} == {2}

    world.run(test())


TWO = Signature(
    (TensorSpec("query", "FP32", (-1, 2)), TensorSpec("candidates", "FP32", (-1, 2))),
    (TensorSpec("y", "FP32", (-1, 1)),),
    rows=Rows.INDEPENDENT,
)


class Scoring(Doubling):
    """Each candidate by the query: by its own where there are as many, otherwise all by the only one."""

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        query, candidates = (tensor.data for tensor in request.inputs)
        return (Tensor("y", "FP32", (query * candidates).sum(axis=1, keepdims=True)),)


def scored(queries: int, candidates: int, seed: int) -> InferRequest:
    rng = np.random.default_rng(seed)
    inputs = [
        Tensor(name, "FP32", rng.standard_normal((count, 2)).astype(np.float32))
        for name, count in (("query", queries), ("candidates", candidates))
    ]
    return InferRequest("m", tuple(inputs), version=1, variant="v", signature_name="f")


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1), (0, 3), (3, 0), (1, 64)], ids=str)
def test_two_batches_in_one_request_are_never_joined(sizes: tuple[int, int]) -> None:
    """The kind: inputs whose first dimensions are free and differ. Requests beside them are joined as ever."""
    world = World(Scoring(signature=TWO))
    odd = [scored(*sizes, seed) for seed in range(3)] if 0 not in sizes else []
    even = [scored(2, 2, seed) for seed in range(10, 16)]

    async def test() -> None:
        requests = [even[0], *odd, *even[1:]]
        answers = await asyncio.gather(*(world.layer.infer(request) for request in requests))
        for request, answer in zip(requests, answers, strict=True):
            assert np.array_equal(answer.outputs[0].data, Scoring().outputs(request)[0].data)
        shapes = [tuple(len(tensor.data) for tensor in request.inputs) for request in world.model.asked]
        assert shapes.count(sizes) == len(odd)
        assert (10, 10) in shapes

    world.run(test())


def without(request: InferRequest) -> InferRequest:
    """Its first input is left out."""
    return replace(request, inputs=request.inputs[1:])


class Defaulting(Scoring):
    """Two thousand queries are its default."""

    def outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        if len(request.inputs) == 2:
            return super().outputs(request)
        return (Tensor("y", "FP32", np.repeat(request.inputs[0].data[:, :1], 2000, axis=0)),)


@pytest.mark.parametrize(
    "odd", [scored(1, 2000, 0), scored(2000, 1, 0), without(scored(1, 1, 0))], ids=["first", "second", "left out"]
)
def test_what_cannot_be_joined_teaches_nothing_about_what_can(odd: InferRequest) -> None:
    """The kind: a request whose answer is not one of its rows' size must not keep others from being joined."""
    signature = replace(TWO, inputs=(replace(TWO.inputs[0], optional=True), TWO.inputs[1]))
    world = World(Defaulting(signature=signature), limits=Limits(max_rows=64, max_bytes=4000))

    async def test() -> None:
        await world.layer.infer(odd)
        world.model.asked.clear()
        await asyncio.gather(*(world.layer.infer(scored(2, 2, seed)) for seed in range(6)))
        assert world.sizes() == [2, 10]

    world.run(test())
