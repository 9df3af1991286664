"""One server at several addresses: each call goes to one of them, chosen for that call.

gRPC keeps one connection, and a Kubernetes ClusterIP sends all of a connection's calls to one pod; so the choice is
made here, over the addresses that the names stand for now (a headless service's name stands for its pods).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from gateway.backends.base import WHOLE, Guard, Server
from gateway.errors import SWAP, SWAPPED, DeadlineExceeded, DuetError, Fault, NotFound, Unavailable
from gateway.servers.endpoint import Endpoint
from gateway.servers.merging import merged
from gateway.servers.overdue import LEAST_PATIENCE_SECONDS, Call, Calls, Sweep
from gateway.servers.witness import Witnesses
from gateway.types import InferRequest, InferResponse, ModelMetadata, Tensor

#: A host and its port -> the addresses that the name stands for now.
Resolve = Callable[[str, int], Awaitable[Collection[str]]]

log = logging.getLogger("duet.backends")

#: Silences in a row (not refusals) after which an endpoint is not ready: a busy one may be late once.
_MISSES_ALLOWED = 3

#: Nobody was called, so there is nothing to try again or to count.
_OUT = Fault("out", retry_safe=False, counts=False)
#: What a Backend that tells no more of itself calls Unavailable.
_UNKNOWN = Fault("unreachable", retry_safe=True, counts=True, unreachable=True)
#: What a doubted endpoint is given to answer what it has answered before, or three times what that usually takes: where
#: calls were late, and where they failed, since then a worker may be starting again that one request has killed.
_LATE_JUDGED_SECONDS = 0.5
_JUDGED_SECONDS = 5.0
#: Failures that are no sign of life.
_NO_ANSWER = frozenset({"unreachable", "lost", "late"})
#: An overdue call with less than this share of its time left is not sent again.
_LEAST_LEFT = 0.2


class Unguarded:
    """The Guard that knows no harm: every endpoint that has a model ready may be called."""

    def admits(self, model: str) -> bool:
        return True

    def due(self, model: str, now: float) -> bool:
        return False

    def trying(self, model: str, now: float) -> None:
        pass

    def tried(self, model: str, well: bool | None, now: float) -> None:
        pass

    def answered(self, model: str) -> None:
        pass

    def failed(self, model: str, fault: Fault, now: float, *, may_doubt: bool = False) -> None:
        pass

    def late(
        self,
        model: str,
        seconds: float,
        usual_seconds: float,
        now: float,
        callers: int,
        *,
        may_doubt: bool = False,
    ) -> None:
        pass

    def silent(self, model: str, seconds: float, now: float) -> None:
        pass

    def doubts(self, model: str) -> bool:
        return False

    def judged(self, model: str, well: bool, now: float) -> None:
        pass

    def hung(self, model: str, now: float) -> None:
        pass

    def reached(self, now: float) -> None:
        pass

    def close(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}


class Balanced:
    """The Server that a server's endpoints are together.

    ``resolve`` tells the addresses, asked at most every ``resolve_seconds``; ``connect`` makes the Server of one, and
    ``guard`` what knows whether it is well. A version is ready where one endpoint has it ready. A call goes to the one
    of two such endpoints, drawn at random, that should answer it first (`Pace`); not ``by_pace``, to either of them.

    An endpoint that its guard does not admit is tried once in a while: with a copy of a request that another endpoint
    answers, or, where there is no other, with the request itself.

    An endpoint whose failures may be of its requests' making is doubted, not taken out: it is asked a request that was
    answered before (`Witnesses`), and what comes of that decides. Until then others are called where there are any.

    An endpoint that falls silent while others answer (`Calls`) is doubted too, and spared. Its overdue calls count
    against it while they are open, and are sent again to another one, each as ``again`` allows for its model. The first
    answer counts.
    """

    def __init__(
        self,
        *,
        name: str,
        resolve: Callable[[], Awaitable[Collection[str]]],
        connect: Callable[[str], Server],
        guard: Callable[[str], Guard] = lambda _: Unguarded(),
        by_pace: bool = True,
        again: Callable[[str], bool] = lambda _: False,
        resolve_seconds: float = 2.0,
        answer_seconds: float = 2.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._resolve = resolve
        self._connect = connect
        self._guard = guard
        self._by_pace = by_pace
        self._again = again
        self._resolve_seconds = resolve_seconds
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._endpoints: dict[str, Endpoint] = {}
        self._resolved_at = -resolve_seconds
        self._resolving = asyncio.Lock()
        self._probes: set[asyncio.Task[None]] = set()
        self._witnesses = Witnesses()
        self._sweep = Sweep(self._look, clock=clock)

    async def infer(self, request: InferRequest) -> InferResponse:
        started = self._clock()
        endpoint, as_try = self._choose(request, started)
        if not as_try:
            if len(self._endpoints) == 1:  # nobody could do better
                return await self._call(endpoint, request, started)
            return await self._watched(endpoint, request, started)
        endpoint.guard.trying(request.model, started)
        return await self._tried(endpoint, request, started)

    def state(self) -> dict[str, Any]:
        """For operators: each endpoint, what it has, and what is known of its calls."""
        return {
            endpoint.address: {
                "in_flight": endpoint.in_flight,
                "ready": sorted(model for model, metadata in endpoint.known.items() if metadata.ready),
                "out": endpoint.guard.state(),
                "models": {model: calls.pace.state() for model, calls in sorted(endpoint.calls.items())},
            }
            for endpoint in self._endpoints.values()
        }

    async def _watched(
        self, endpoint: Endpoint, request: InferRequest, started: float, tried: tuple[str, ...] = ()
    ) -> InferResponse:
        """A call that is sent to another endpoint too where it becomes overdue and this one silent."""
        calls, call = endpoint.of(request.model), Call(request, started)
        calls.open[call] = None
        if tried:
            call.tried = tried
        if not calls.watched:
            self._sweep.watch(calls)
        try:
            return await self._call(endpoint, request, started, call)
        except asyncio.CancelledError:
            answer = call.take()
            if answer is None:
                raise
            return answer
        except DuetError as error:
            if call.second is None:
                raise
            answer = await call.seconds_answer()
            if answer is None:
                if error.fault is not None:
                    error.fault = replace(error.fault, retry_safe=False)  # it was sent twice: not a third time
                raise
            return answer
        finally:
            del calls.open[call]
            call.ended = True
            if call.second is not None:
                await call.settle()

    async def _call(
        self,
        endpoint: Endpoint,
        request: InferRequest,
        started: float,
        call: Call | None = None,
        *,
        as_try: bool = False,
    ) -> InferResponse:
        model, calls = request.model, endpoint.of(request.model)
        endpoint.in_flight += 1
        try:
            response = await endpoint.backend.infer(request)
        except DuetError as error:
            error.endpoint = endpoint.address
            self._failed(endpoint, request, error, started, call)
            raise
        except asyncio.CancelledError:
            if call is not None and call.counted:
                raise
            if request.deadline is not None and asyncio.get_running_loop().time() >= request.deadline:
                self._late(endpoint, request, started)
            raise
        else:
            endpoint.guard.answered(model)
            now = self._clock()
            seconds = now - started
            if (call is not None and call.counted) or (as_try and seconds > 3 * calls.pace.seconds > 0):
                calls.lived(now)  # it lay there while the endpoint hung, and says nothing of how long calls take
                return response
            calls.answered(now, seconds)
            calls.pace.answered(now, seconds)
            self._witnesses.answered(request, seconds, calls.pace.seconds, now)
            return response
        finally:
            endpoint.in_flight -= 1
            if endpoint.leaving and not endpoint.in_flight:
                await endpoint.backend.aclose()

    def _failed(
        self, endpoint: Endpoint, request: InferRequest, error: DuetError, started: float, call: Call | None
    ) -> None:
        fault = error.fault or (_UNKNOWN if isinstance(error, Unavailable) else None)
        if isinstance(error, DeadlineExceeded) and (fault is None or fault.counts):
            if call is None or not call.counted:
                self._late(endpoint, request, started)
            return
        if fault is None:
            return
        now, model = self._clock(), request.model
        if fault.name not in _NO_ANSWER:
            endpoint.of(model).lived(now)
        witness = self._witness(endpoint, model)
        endpoint.guard.failed(model, fault, now, may_doubt=witness is not None)
        self._perhaps_judge(endpoint, witness, _JUDGED_SECONDS)
        if fault.counts or fault.name == "overload":
            endpoint.pace(model).failed(now, now - started)

    def _late(self, endpoint: Endpoint, request: InferRequest, started: float) -> None:
        now, model = self._clock(), request.model
        pace, witness = endpoint.pace(model), self._witness(endpoint, model)
        may_doubt = witness is not None
        endpoint.guard.late(model, now - started, pace.seconds, now, request.callers, may_doubt=may_doubt)
        self._perhaps_judge(endpoint, witness, _LATE_JUDGED_SECONDS)
        pace.failed(now, now - started)

    def _look(self, now: float, watched: list[Calls]) -> None:
        """Of all that have calls open: which endpoints are silent, and what becomes of their overdue calls."""
        for calls in watched:
            was_silent = calls.model in calls.endpoint.silent
            if not calls.look(now, alone=self._is_alone(calls, now)):
                continue
            for call in calls.overdue(now, self._patience(calls, now)):
                self._overdue(calls, call, now)
            if not was_silent:
                log.warning("%s: endpoint %s is silent for %s", self._name, calls.endpoint.address, calls.model)
                calls.pace.failed(now, calls.age(now))
            self._doubt(calls, now)

    def _is_alone(self, calls: Calls, now: float) -> bool:
        age = calls.age(now)
        if age < LEAST_PATIENCE_SECONDS or age < self._patience(calls, now):
            return False
        return self._better(next(iter(calls.open)), calls, now) is not None

    def _overdue(self, calls: Calls, call: Call, now: float) -> None:
        """Counts it, once, for each of its callers, and sends it again where that is allowed."""
        endpoint, seconds, request = calls.endpoint, now - call.started, call.request
        if not call.counted:
            call.counted = True
            if not endpoint.leaving:
                may_doubt = self._witness(endpoint, calls.model) is not None
                usual = calls.pace.seconds
                endpoint.guard.late(calls.model, seconds, usual, now, request.callers, may_doubt=may_doubt)
        if call.second is not None or call.task is None:
            return
        if request.deadline is not None:
            left = request.deadline - asyncio.get_running_loop().time()
            if left < _LEAST_LEFT * (left + seconds):
                return
        other = self._better(call, calls, now)
        if other is None or not self._again(calls.model):
            return
        again = replace(request, avoid=endpoint.address)
        call.follow(asyncio.create_task(self._watched(other, again, now, (*call.tried, endpoint.address))))

    def _doubt(self, calls: Calls, now: float) -> None:
        endpoint = calls.endpoint
        witness = self._witness(endpoint, calls.model)
        if witness is not None and not endpoint.leaving:
            endpoint.guard.silent(calls.model, calls.age(now), now)
            self._perhaps_judge(endpoint, witness, _LATE_JUDGED_SECONDS, silent=True)

    def _patience(self, calls: Calls, now: float) -> float:
        model = calls.model
        longest = max((endpoint.of(model).longest_seconds for endpoint in self._endpoints.values()), default=0.0)
        return calls.patience(now, longest)

    def _better(self, call: Call, calls: Calls, now: float) -> Endpoint | None:
        """An endpoint that could answer this call sooner than the one where it waits."""
        found = self._others(calls.endpoint, call.request, now)
        untried = [endpoint for endpoint in found if endpoint.address not in call.tried]
        return min(untried, key=lambda endpoint: endpoint.in_flight, default=None)

    def _others(self, but: Endpoint, request: InferRequest, now: float) -> list[Endpoint]:
        """Those that may be called for this, and are not silent themselves."""
        model = request.model
        return [
            endpoint
            for endpoint in self._endpoints.values()
            if endpoint is not but
            and endpoint.serves(model, request.version)
            and endpoint.guard.admits(model)
            and model not in endpoint.judging
            and endpoint.of(model).age(now) < self._patience(endpoint.of(model), now)
        ]

    def _witness(self, endpoint: Endpoint, model: str) -> InferRequest | None:
        """A request that this endpoint should be able to answer."""
        found = self._witnesses.of(model)
        return found if found is not None and endpoint.serves(model, found.version) else None

    def _perhaps_judge(
        self, endpoint: Endpoint, witness: InferRequest | None, seconds: float, *, silent: bool = False
    ) -> None:
        if witness is None or witness.model in endpoint.judging or not endpoint.guard.doubts(witness.model):
            return
        endpoint.judging.add(witness.model)
        self._in_background(self._judge(endpoint, witness, seconds, silent=silent))

    async def _judge(self, endpoint: Endpoint, witness: InferRequest, seconds: float, *, silent: bool) -> None:
        model = witness.model
        try:
            well = await self._answers(endpoint, witness, seconds)
        finally:
            endpoint.judging.discard(model)
        now = self._clock()
        if silent and not well and not self._others(endpoint, witness, now):
            endpoint.guard.judged(model, True, now)  # all are silent by now: nobody is better
            return
        endpoint.guard.judged(model, well, now)
        if well:
            log.info("%s: endpoint %s is well: requests for %s fail by themselves", self._name, endpoint.address, model)

    async def _answers(self, endpoint: Endpoint, witness: InferRequest, seconds: float) -> bool:
        """Whether the endpoint answers this in time. The call counts for nothing else."""
        usual = endpoint.pace(witness.model).seconds
        deadline = asyncio.get_running_loop().time() + max(seconds, 3 * usual)
        endpoint.in_flight += 1
        try:
            async with asyncio.timeout_at(deadline):
                await endpoint.backend.infer(witness.due(deadline))
        except DuetError as error:
            return not _is_faulty(error)
        except TimeoutError:
            return False
        finally:
            endpoint.in_flight -= 1
        endpoint.of(witness.model).lived(self._clock())
        return True

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _tried(self, endpoint: Endpoint, request: InferRequest, started: float) -> InferResponse:
        """A call that shows whether the endpoint is well. Errors that are the request's own show that it is.

        Where that is not sure, the endpoint is asked what it has answered before: a caller whose requests fail by
        themselves may be the one whose request is the try, each time.
        """
        well: bool | None = None
        witness: InferRequest | None = None
        try:
            response = await self._call(endpoint, request, started, as_try=True)
            well = True
            return response
        except DuetError as error:
            well = not _is_faulty(error)
            if not well and (isinstance(error, DeadlineExceeded) or (error.fault and error.fault.by_request)):
                witness = self._witness(endpoint, request.model)
            raise
        finally:
            if witness is None:
                endpoint.guard.tried(request.model, well, self._clock())
            else:
                self._in_background(self._try_again(endpoint, witness))

    async def _try_again(self, endpoint: Endpoint, witness: InferRequest) -> None:
        well: bool | None = None
        try:
            well = await self._answers(endpoint, witness, _JUDGED_SECONDS)
        finally:
            endpoint.guard.tried(witness.model, well, self._clock())

    def _choose(self, request: InferRequest, now: float) -> tuple[Endpoint, bool]:
        """The endpoint, and whether the call is a try of one that is out."""
        model = request.model
        if len(self._endpoints) == 1:  # what follows comes to the same, and takes longer
            (only,) = self._endpoints.values()
            if only.serves(model, request.version) and only.guard.admits(model):
                return only, False
        ready = [endpoint for endpoint in self._endpoints.values() if endpoint.serves(model, request.version)]
        able = [endpoint for endpoint in ready if endpoint.guard.admits(model)]
        if len(able) < len(ready):
            due = [endpoint for endpoint in ready if endpoint not in able and endpoint.guard.due(model, now)]
            if not able and due:
                return due[0], True
            for endpoint in due:
                self._probe(endpoint, request, now)
        if not able:
            raise self._nobody(ready, model)
        if request.avoid is not None and len(able) > 1:
            able = [endpoint for endpoint in able if endpoint.address != request.avoid]
        if len(able) > 1:
            able = [endpoint for endpoint in able if not endpoint.judging and model not in endpoint.silent] or able
        if len(able) == 1:
            return able[0], False
        one, other = random.sample(able, 2)  # drawn, so that of two idle ones not always the same is taken
        return (self._quicker(one, other, model, now) if self._by_pace else one), False

    def _quicker(self, one: Endpoint, other: Endpoint, model: str, now: float) -> Endpoint:
        a, b = one.pace(model).expected(now), other.pace(model).expected(now)
        if not a or not b:  # one of them has not answered yet
            a = b = 1.0
        return one if a * (one.in_flight + 1) <= b * (other.in_flight + 1) else other

    def _nobody(self, out: Sequence[Endpoint], model: str) -> Unavailable:
        if not out and any(model in endpoint.known for endpoint in self._endpoints.values()):
            error = Unavailable(SWAPPED, retry_after_seconds=1)
            error.fault = SWAP
            return error
        fails = any(WHOLE not in endpoint.guard.state() for endpoint in out)
        why = "fails for this model, and is tried again each second" if fails else "cannot be reached"
        error = Unavailable(f"{self._name} {why}", retry_after_seconds=1)
        error.fault = _OUT
        return error

    def _probe(self, endpoint: Endpoint, request: InferRequest, now: float) -> None:
        """Sends a copy, whose answer nobody gets: the original's memory may be used again once that is answered."""
        endpoint.guard.trying(request.model, now)
        usual = endpoint.pace(request.model).seconds
        deadline = asyncio.get_running_loop().time() + max(self._answer_seconds, 3 * usual)
        self._in_background(self._probed(endpoint, _copied(request, deadline), deadline))

    async def _probed(self, endpoint: Endpoint, request: InferRequest, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._tried(endpoint, request, self._clock())
        except (DuetError, TimeoutError) as error:
            log.info("%s: endpoint %s is not well yet: %s", self._name, endpoint.address, error)
        except Exception:
            log.exception("%s: trying endpoint %s failed", self._name, endpoint.address)

    async def metadata(self, model: str) -> ModelMetadata:
        await self._follow()
        endpoints = list(self._endpoints.values())
        answers = await asyncio.gather(*(self._ask(endpoint, model) for endpoint in endpoints))
        found = [answer for answer in answers if isinstance(answer, ModelMetadata)]
        if found:
            return merged(found)
        failures = [answer for answer in answers if isinstance(answer, DuetError)]
        if not failures:
            raise Unavailable(f"{self._name} has no endpoint", retry_after_seconds=1)
        # One that cannot be reached may have the model: only when all deny it, it is not there.
        raise next((failure for failure in failures if not isinstance(failure, NotFound)), failures[0])

    async def models(self) -> Collection[str] | None:
        """The models that any endpoint lists; None where none can list its models."""
        await self._follow()
        listed: set[str] = set()
        able = False
        for endpoint in list(self._endpoints.values()):
            try:
                async with asyncio.timeout(self._answer_seconds):
                    names = await endpoint.backend.models()
            except (DuetError, TimeoutError):
                # It may have any model: none of those it had is taken away while it does not answer.
                able, names = True, list(endpoint.known)
            if names is not None:
                able = True
                listed.update(names)
        return listed if able else None

    async def aclose(self) -> None:
        self._sweep.close()
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for endpoint in self._endpoints.values():
            await endpoint.backend.aclose()

    async def _ask(self, endpoint: Endpoint, model: str) -> ModelMetadata | DuetError:
        try:
            async with asyncio.timeout(self._answer_seconds):
                metadata = await endpoint.backend.metadata(model)
        except TimeoutError:
            endpoint.misses[model] = endpoint.misses.get(model, 0) + 1
            if endpoint.misses[model] < _MISSES_ALLOWED and model in endpoint.known:
                return endpoint.known[model]
            endpoint.known.pop(model, None)
            return Unavailable(f"{self._name} does not answer", retry_after_seconds=1)
        except DuetError as error:
            endpoint.known.pop(model, None)
            return error
        endpoint.misses.pop(model, None)
        endpoint.known[model] = metadata
        now = self._clock()
        endpoint.guard.reached(now)
        if endpoint.pace(model).hangs(now, metadata.pending):
            endpoint.guard.hung(model, now)
        return metadata

    async def _follow(self) -> None:
        """Looks the names up again where that is due; endpoints that are gone end what they have in flight."""
        async with self._resolving:
            if self._clock() - self._resolved_at < self._resolve_seconds:
                return
            try:
                addresses = set(await self._resolve())
            except OSError as error:
                log.warning("%s: its name cannot be looked up: %s", self._name, error.strerror or error)
                addresses = set(self._endpoints)
            self._resolved_at = self._clock()
            for address in addresses - self._endpoints.keys():
                log.info("%s: endpoint %s", self._name, address)
                self._endpoints[address] = Endpoint(address, self._connect(address), self._guard(address))
            for address in self._endpoints.keys() - addresses:
                log.info("%s: endpoint %s is gone", self._name, address)
                endpoint = self._endpoints.pop(address)
                endpoint.leaving = True
                endpoint.guard.close()
                if not endpoint.in_flight:
                    await endpoint.backend.aclose()


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses that ``host`` stands for now. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family = found[0][0]  # a pod with two families is still one pod
    return [str(entry[4][0]) for entry in found if entry[0] == family]


def _is_faulty(error: DuetError) -> bool:
    """Whether this may be a sign that the endpoint is not well."""
    if error.fault is not None:
        return error.fault.counts
    return isinstance(error, DeadlineExceeded | Unavailable)


def _copied(request: InferRequest, deadline: float) -> InferRequest:
    inputs = tuple(Tensor(tensor.name, tensor.datatype, tensor.data.copy()) for tensor in request.inputs)
    return replace(request, inputs=inputs, deadline=deadline, target=None, reread=None)
