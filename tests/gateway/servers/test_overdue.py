"""One endpoint of several falls silent, and its callers have time.

The kind: an endpoint that takes calls and answers none (stopped, deadlocked, cut off without a reset, dripping), for
all models or for one, before or during its calls. Callers with long deadlines must not be the ones who find out. What
is only slow is no member: slow models, slow single calls, first calls, pauses, and endpoints that are slow together.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gateway.errors import DeadlineExceeded, DuetError, Unavailable
from gateway.layers.breaker import Breaker, Policy
from gateway.layers.deadline import Deadline
from gateway.layers.retry import Again, Retry
from gateway.layers.signals import Signals
from gateway.servers.balanced import Balanced
from gateway.servers.endpoint import Endpoint
from gateway.servers.overdue import Calls
from gateway.types import InferRequest, InferResponse, ModelMetadata, Tensor, VersionMetadata
from tests.fakes.simulated import simulate

USUAL = 0.02
#: Seconds of one call: to an endpoint's own number of calls, and its first value.
Seconds = Callable[[int, float], float]


class Server:
    """Answers after ``seconds``, each call at its own time. While it hangs, nothing it has or gets is answered."""

    def __init__(self, seconds: Seconds = lambda number, value: USUAL) -> None:
        self.seconds = seconds
        self.hangs: Collection[str] = ()
        self.asked = 0
        self.in_flight = 0
        self.failure: DuetError | None = None
        self._moves = asyncio.Event()

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked += 1
        self.in_flight += 1
        try:
            await asyncio.sleep(self.seconds(self.asked, float(request.inputs[0].data[0])))
            while request.model in self.hangs:
                await self._moves.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.in_flight -= 1
        return InferResponse(request.model, "v", 1, request.inputs)

    def stop(self, *models: str) -> None:
        self._moves.clear()
        self.hangs = models or ("m", "n")

    def go_on(self) -> None:
        self.hangs = ()
        self._moves.set()

    async def metadata(self, model: str) -> ModelMetadata:
        return ModelMetadata(model, "v", "p", {1: VersionMetadata(1, ready=True)}, 1)

    async def models(self) -> None:
        return None

    async def aclose(self) -> None: ...


class World:
    """Callers with half a minute each, a stock of retries, and these servers."""

    def __init__(self, *servers: Server, retry: Again | None = Again()) -> None:  # noqa: B008 - frozen
        loop = asyncio.get_running_loop()
        self.servers = {str(number): server for number, server in enumerate(servers)}
        self.addresses = set(self.servers)
        self.registry = CollectorRegistry()
        signals = Signals(self.registry)

        async def resolve() -> Collection[str]:
            return self.addresses

        self.balanced = Balanced(
            name="the server",
            resolve=resolve,
            connect=self.servers.__getitem__,
            guard=lambda _: Breaker("v", signals, Policy(), {}, lambda model, what: None),
            again=lambda model: self.retry.spare(model),
            resolve_seconds=0,
            clock=loop.time,
        )
        self.retry = Retry(self.balanced, variant="v", signals=signals, default=retry, clock=loop.time)
        self.deadline = Deadline(self.retry, default_seconds=30.0)
        #: When each call began, and what it took, or how it failed.
        self.calls: list[tuple[float, float, str]] = []

    async def begin(self, *models: str) -> None:
        for model in models or ("m",):
            await self.balanced.metadata(model)

    async def call(self, value: float = 1.0, model: str = "m", callers: int = 1, size: int = 1) -> None:
        now = asyncio.get_running_loop().time
        began, outcome = now(), "ok"
        request = InferRequest(model, (Tensor("x", "FP32", np.full(size, value, np.float32)),), version=1)
        try:
            answer = await self.deadline.infer(replace(request, callers=callers))
            assert float(answer.outputs[0].data[0]) == value
        except DuetError as error:
            outcome = type(error).__name__
        self.calls.append((began, now() - began, outcome))

    async def closed_loop(self, callers: int, seconds: float, model: str = "m", pause: float = 0.0) -> None:
        ends = asyncio.get_running_loop().time() + seconds

        async def caller(number: int) -> None:
            while asyncio.get_running_loop().time() < ends:
                await self.call(float(number), model)
                await asyncio.sleep(pause)

        await asyncio.gather(*map(caller, range(callers)))

    async def open_loop(self, per_second: float, seconds: float, model: str = "m") -> None:
        tasks = []
        for number in range(int(per_second * seconds)):
            tasks.append(asyncio.create_task(self.call(float(number), model)))
            await asyncio.sleep(1 / per_second)
        await asyncio.gather(*tasks)

    def count(self, metric: str, **labels: str) -> float:
        found = (sample for family in self.registry.collect() for sample in family.samples)
        return sum(s.value for s in found if s.name == metric and labels.items() <= s.labels.items())

    @property
    def sent_again(self) -> float:
        return self.count("duet_retries_total", outcome="overdue")

    async def until_sent_again(self) -> None:
        for _ in range(100):
            if not self.sent_again:
                await asyncio.sleep(0.01)
        assert self.sent_again

    @property
    def ejections(self) -> float:
        return self.count("duet_ejections_total")

    def answers(self, since: float) -> list[float]:
        """What each call took that began since then. None fails."""
        found = [call for call in self.calls if call[0] >= since]
        assert {outcome for _, _, outcome in found} == {"ok"}
        return sorted(seconds for _, seconds, _ in found)

    async def settle(self) -> None:
        """Nothing is left open once all servers go on: no call, no try, no timer."""
        for server in self.servers.values():
            server.go_on()
        await asyncio.sleep(10.0)
        assert not any(state["in_flight"] for state in self.balanced.state().values())
        assert not any(server.in_flight for server in self.servers.values())
        assert len(asyncio.all_tasks()) == 1


async def _closed_64(world: World) -> None:
    await world.closed_loop(64, 4.0)


async def _closed_16(world: World) -> None:
    await world.closed_loop(16, 3.0)


async def _closed_1(world: World) -> None:
    await world.closed_loop(1, 6.0)


async def _open_200(world: World) -> None:
    await world.open_loop(200, 6.0)


async def _open_2(world: World) -> None:
    await world.open_loop(2, 20.0)


LOADS = {"closed 64": _closed_64, "closed 16": _closed_16, "closed 1": _closed_1, "200/s": _open_200, "2/s": _open_2}
full = pytest.mark.full


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=full)])
@pytest.mark.parametrize("load", ["closed 1", "closed 16", "2/s", *(pytest.param(n, marks=full) for n in LOADS)])
def test_one_that_hangs_costs_its_callers_a_moment_and_later_ones_nothing(load: str, count: int) -> None:
    """Whatever the load: a caller with half a minute waits for its overdue call, not for its deadline."""

    async def main() -> None:
        hung, *others = (Server() for _ in range(count))
        world = World(hung, *others)
        await world.begin()
        await world.closed_loop(16, 1.0)
        stopped = asyncio.get_running_loop().time()
        hung.stop()
        await LOADS[load](world)
        first, later = world.answers(stopped), world.answers(stopped + 2.0)
        assert first[-1] < 0.6
        assert later[int(0.99 * len(later))] <= 5 * USUAL
        out = world.balanced.state()["0"]["out"]
        assert out["m"]["reason"] in ("silent", "failures")
        await world.settle()

    simulate(main())


def test_two_of_three_that_hang_leave_the_third() -> None:
    """A second call may come to another silent endpoint: it is sent on from there."""

    async def main() -> None:
        a, b, c = Server(), Server(), Server()
        world = World(a, b, c)
        await world.begin()
        await world.closed_loop(16, 1.0)
        stopped = asyncio.get_running_loop().time()
        a.stop()
        b.stop()
        await world.closed_loop(32, 5.0)
        assert world.answers(stopped)[-1] < 1.5
        assert world.answers(stopped + 2.0)[-1] <= 5 * USUAL
        await world.settle()

    simulate(main())


def test_one_that_hangs_for_one_model_goes_on_with_another() -> None:
    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin("m", "n")
        await asyncio.gather(world.closed_loop(8, 1.0, "m"), world.closed_loop(8, 1.0, "n"))
        stopped = asyncio.get_running_loop().time()
        a.stop("m")
        before = world.balanced.state()["0"]["models"]["n"]["answers"]
        await asyncio.gather(world.closed_loop(8, 5.0, "m"), world.closed_loop(8, 5.0, "n"))
        state = world.balanced.state()["0"]
        assert set(state["out"]) == {"m"}
        assert state["models"]["n"]["answers"] - before > 0.3 * 8 * 5.0 / USUAL
        assert world.answers(stopped)[-1] < 0.6

    simulate(main())


def test_a_batch_that_hangs_counts_for_each_of_its_callers_while_it_is_open() -> None:
    """Its rows are too many to be kept for asking again: here nothing else than the count decides."""

    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b, retry=None)
        await world.begin()
        batch = {"callers": 5, "size": (1 << 20) + 1}
        await asyncio.gather(*(world.call(**batch) for _ in range(4)))
        a.stop()
        batches = [asyncio.create_task(world.call(**batch)) for _ in range(2)]
        await asyncio.sleep(0.5)
        assert world.balanced.state()["0"]["out"] == {"m": {"reason": "failures", "trying": False}}
        assert not all(batch.done() for batch in batches)
        a.go_on()
        await asyncio.gather(*batches)
        await world.settle()

    simulate(main())


def test_it_is_in_again_soon_after_it_goes_on_and_late_answers_say_nothing_of_its_pace() -> None:
    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b, retry=None)
        await world.begin()
        await world.closed_loop(8, 1.0)
        a.stop()
        stuck = [asyncio.create_task(world.call()) for _ in range(8)]
        loaded = asyncio.create_task(world.closed_loop(8, 12.0))
        await asyncio.sleep(8.0)
        assert world.balanced.state()["0"]["out"]
        a.go_on()
        await asyncio.gather(*stuck)
        assert world.balanced.state()["0"]["models"]["m"]["seconds"] < 2 * USUAL
        await asyncio.sleep(1.5)
        assert not world.balanced.state()["0"]["out"]
        before = a.asked
        await loaded
        assert a.asked - before > 100
        await world.settle()

    simulate(main())


def test_one_that_is_gone_from_its_name_while_it_hangs_lets_its_calls_go() -> None:
    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin()
        await world.closed_loop(8, 1.0)
        a.stop()
        stopped = asyncio.get_running_loop().time()
        calls = [asyncio.create_task(world.call()) for _ in range(8)]
        await asyncio.sleep(0.1)
        world.addresses.discard("0")
        await world.begin()
        await asyncio.gather(*calls)
        assert world.answers(stopped)[-1] < 0.6

    simulate(main())


SLOW: dict[str, tuple[Seconds, Seconds]] = {
    "slow by nature": (lambda number, value: 20.0, lambda number, value: 20.0),
    "slow at one endpoint": (lambda number, value: USUAL, lambda number, value: 10 * USUAL),
    "slow at first": (lambda number, value: USUAL, lambda number, value: 4.0 if number <= 8 else USUAL),
    "a pause of 200 ms": (lambda number, value: USUAL, lambda number, value: 0.2 + USUAL if number % 50 < 8 else USUAL),
    "one of twenty takes fifty times as long": (
        lambda number, value: 50 * USUAL if number % 20 == 7 else USUAL,
        lambda number, value: 50 * USUAL if number % 20 == 13 else USUAL,
    ),
}


@pytest.mark.parametrize("callers", [1, pytest.param(4, marks=full), pytest.param(16, marks=full)])
@pytest.mark.parametrize("name", SLOW)
def test_what_is_only_slow_is_neither_cut_nor_sent_twice(name: str, callers: int) -> None:
    """But for the first few of those that a lone caller meets: nobody can know them before."""

    async def main() -> None:
        world = World(*(Server(seconds) for seconds in SLOW[name]))
        await world.begin()
        await world.closed_loop(callers, 100.0 if name == "slow by nature" else 20.0)
        assert world.ejections == 0
        assert world.sent_again <= (4 if name.startswith("one of twenty") and callers == 1 else 0)
        assert world.answers(0.0)

    simulate(main())


def test_two_that_stand_still_together_are_both_kept() -> None:
    """They may share what they wait for. The first to go on does not make the other one hung."""

    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin()
        await world.closed_loop(16, 1.0)
        load = asyncio.create_task(world.closed_loop(16, 8.0))
        await asyncio.sleep(0.5)
        a.stop()
        b.stop()
        await asyncio.sleep(5.0)
        a.go_on()
        await asyncio.sleep(0.08)
        b.go_on()
        await load
        assert world.ejections == 0
        assert world.sent_again == 0

    simulate(main())


def test_the_only_one_is_kept_however_long_it_takes() -> None:
    async def main() -> None:
        a = Server()
        world = World(a)
        await world.begin()
        await world.closed_loop(8, 1.0)
        load = asyncio.create_task(world.closed_loop(8, 10.0))
        await asyncio.sleep(0.5)
        a.stop()
        await asyncio.sleep(9.0)
        assert not world.balanced.state()["0"]["out"]
        a.go_on()
        await load
        assert world.answers(0.0)

    simulate(main())


def test_the_last_of_two_is_kept_where_the_other_is_out() -> None:
    """There is nobody better: a call stays where it is, and new ones go there too."""

    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin()
        await world.closed_loop(8, 1.0)
        a.stop()
        await world.closed_loop(8, 3.0)
        assert set(world.balanced.state()["0"]["out"]) == {"m"}
        b.stop()
        load = asyncio.create_task(world.closed_loop(8, 3.0))
        await asyncio.sleep(2.5)
        assert not world.balanced.state()["1"]["out"]
        b.go_on()
        a.go_on()
        await load
        await world.settle()

    simulate(main())


def test_what_is_sent_again_stays_within_the_retries() -> None:
    """Two hundred callers wait where nothing comes; a fifth of the last requests, and a few each second, are sent."""

    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b, retry=Again(share=0.0, per_second=10.0))
        await world.begin()
        await world.closed_loop(8, 1.0)
        a.stop()
        calls = [asyncio.create_task(world.call()) for _ in range(200)]
        load = asyncio.create_task(world.closed_loop(1, 10.0))
        await asyncio.sleep(6.0)
        assert 10 < world.sent_again <= 10 + 10 * 6
        a.go_on()
        await asyncio.gather(*calls, load)

    simulate(main())


@pytest.mark.parametrize("first_wins", [True, False])
def test_the_one_that_loses_is_given_up_at_once(first_wins: bool) -> None:
    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin()
        await world.closed_loop(4, 1.0)
        a.stop()
        calls = [asyncio.create_task(world.call()) for _ in range(8)]
        await asyncio.sleep(0.1)
        assert b.in_flight == 0
        if first_wins:
            b.seconds = lambda number, value: 1.0
        await world.until_sent_again()
        if first_wins:
            a.go_on()
        await asyncio.gather(*calls)
        assert a.in_flight <= 1  # it is asked whether it is well
        assert b.in_flight == 0
        assert world.answers(1.0)[-1] < 0.6
        await world.settle()

    simulate(main())


def test_a_caller_that_leaves_takes_both_calls_with_it() -> None:
    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin()
        await world.closed_loop(4, 1.0)
        a.stop()
        calls = [asyncio.create_task(world.call()) for _ in range(8)]
        await asyncio.sleep(0.1)
        b.seconds = lambda number, value: 5.0
        left = [call for call in calls if not call.done()]
        assert left
        await world.until_sent_again()
        for call in left:
            call.cancel()
        results = await asyncio.gather(*left, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await asyncio.sleep(1.0)
        await world.settle()

    simulate(main())


@pytest.mark.parametrize("both_fail", [True, False])
def test_a_first_that_fails_leaves_it_to_the_second(both_fail: bool) -> None:
    """The stopped process is killed: its calls break off while the others of them are on their way."""

    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin()
        await world.closed_loop(4, 1.0)
        a.stop()
        calls = [asyncio.create_task(world.call()) for _ in range(8)]
        await asyncio.sleep(0.1)
        b.seconds = lambda number, value: 0.5
        await world.until_sent_again()
        stopped = len(world.calls)
        a.failure = Unavailable("gone")
        if both_fail:
            b.failure = Unavailable("gone")
        a.go_on()
        await asyncio.gather(*calls)
        outcomes = {outcome for _, _, outcome in world.calls[stopped:]}
        assert outcomes <= {"Unavailable"} if both_fail else outcomes == {"ok"}
        await world.settle()

    simulate(main())


def test_a_deadline_ends_both() -> None:
    async def main() -> None:
        a, b = Server(), Server()
        world = World(a, b)
        await world.begin()
        await world.closed_loop(4, 1.0)
        a.stop()
        calls = [asyncio.create_task(world.call()) for _ in range(8)]
        await asyncio.sleep(0.1)
        b.seconds = lambda number, value: 60.0
        left = [call for call in calls if not call.done()]
        await asyncio.gather(*left)
        assert {outcome for _, _, outcome in world.calls[-len(left) :]} == {DeadlineExceeded.__name__}
        assert world.sent_again
        await world.settle()

    simulate(main())


async def _opened(now: float) -> Calls:
    """One call is open since ``now``; earlier ones took 20 ms."""
    endpoint = Endpoint("a", Server(), Breaker("v", Signals(CollectorRegistry()), Policy(), {}, lambda *_: None))
    calls = endpoint.of("m")
    for number in range(10):
        calls.answered(number / 10, USUAL)
    return calls


def test_patience_is_of_the_longest_call_of_late_and_grows_where_it_was_too_short() -> None:
    async def main() -> None:
        calls = await _opened(0.0)
        assert calls.patience(1.0, USUAL) == 0.25
        assert calls.patience(1.0, 1.0) == 3.0
        calls.look(1.0, alone=True)
        assert calls.look(1.2, alone=True)
        calls.lived(1.5)  # it was only slow
        assert calls.patience(1.5, USUAL) == 0.5
        for start in (2.0, 3.0, 4.0, 5.0):
            calls.look(start, alone=True)
            calls.look(start + 0.2, alone=True)
            calls.lived(start + 0.3)
        assert calls.patience(5.3, USUAL) <= 8 * 0.25
        assert calls.patience(400.0, USUAL) < 0.26
        calls.look(400.0, alone=True)
        calls.look(400.2, alone=True)
        calls.lived(430.0)  # it hung
        assert calls.patience(430.0, USUAL) < 0.26

    simulate(main())


def test_a_long_call_is_forgotten_after_enough_shorter_ones() -> None:
    async def main() -> None:
        calls = await _opened(0.0)
        calls.answered(1.0, 5.0)
        assert calls.longest_seconds == 5.0
        for number in range(300):
            calls.answered(1.0 + number / 100, USUAL)
        assert calls.longest_seconds == USUAL
        calls.answered(5.0, 5.0)
        calls.answered(50.0, USUAL)
        calls.answered(90.0, USUAL)
        assert calls.longest_seconds == USUAL

    simulate(main())


def test_nothing_is_overdue_before_anything_was_answered() -> None:
    async def main() -> None:
        endpoint = Endpoint("a", Server(), Breaker("v", Signals(CollectorRegistry()), Policy(), {}, lambda *_: None))
        assert endpoint.of("m").patience(1000.0, 0.0) == float("inf")
        assert endpoint.of("m").patience(1000.0, USUAL) == 5.0  # its first call may load something

    simulate(main())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=full) for seed in range(1, 20))])
def test_no_call_is_lost_or_left_open_whatever_stops_and_goes_on(seed: int) -> None:
    async def main() -> None:
        dice = random.Random(seed)
        servers = [Server(lambda number, value: dice.expovariate(50)) for _ in range(3)]
        world = World(*servers)
        await world.begin()
        await world.closed_loop(8, 1.0)
        load = asyncio.create_task(world.closed_loop(6, 20.0))
        while not load.done():
            victim = dice.choice(servers)
            victim.stop()
            await asyncio.sleep(dice.uniform(0.1, 4.0))
            victim.go_on()
            await asyncio.sleep(dice.uniform(0.1, 2.0))
        assert world.answers(0.0)[-1] < 5.0
        await world.settle()

    simulate(main())
