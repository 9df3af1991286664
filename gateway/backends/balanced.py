"""One server at several addresses: each call goes to one of them, chosen for that call.

gRPC keeps one connection, and a Kubernetes ClusterIP sends all of a connection's calls to one pod; so the choice is
made here, over the addresses that the names stand for now (a headless service's name stands for its pods).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from time import monotonic
from typing import Any

from gateway.backends.base import WHOLE, Backend, Guard
from gateway.backends.pace import Pace
from gateway.backends.witness import Witnesses
from gateway.errors import SWAP, SWAPPED, DeadlineExceeded, DuetError, Fault, NotFound, Unavailable
from gateway.types import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    Rows,
    ServerBatching,
    Tensor,
    VersionMetadata,
)

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


@dataclass(slots=True, eq=False)
class _Endpoint:
    address: str
    backend: Backend
    guard: Guard
    in_flight: int = 0
    leaving: bool = False
    known: dict[str, ModelMetadata] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    #: The models for which it is doubted and asked what it has answered before.
    judging: set[str] = field(default_factory=set)

    def serves(self, model: str, version: int | None) -> bool:
        metadata = self.known.get(model)
        found = metadata.versions.get(version) if metadata is not None and version is not None else None
        return found is not None and found.ready

    def pace(self, model: str) -> Pace:
        found = self.paces.get(model)
        if found is None:
            found = self.paces[model] = Pace()
        return found


class Balanced:
    """The Backend that a server's endpoints are together.

    ``resolve`` tells the addresses, asked at most every ``resolve_seconds``; ``connect`` makes the Backend of one, and
    ``guard`` what knows whether it is well. A version is ready where one endpoint has it ready. A call goes to the one
    of two such endpoints, drawn at random, that should answer it first (`Pace`); not ``by_pace``, to either of them.

    An endpoint that its guard does not admit is tried once in a while: with a copy of a request that another endpoint
    answers, or, where there is no other, with the request itself.

    An endpoint whose failures may be of its requests' making is doubted, not taken out: it is asked a request that was
    answered before (`Witnesses`), and what comes of that decides. Until then others are called where there are any.
    """

    def __init__(
        self,
        *,
        name: str,
        resolve: Callable[[], Awaitable[Collection[str]]],
        connect: Callable[[str], Backend],
        guard: Callable[[str], Guard] = lambda _: Unguarded(),
        by_pace: bool = True,
        resolve_seconds: float = 2.0,
        answer_seconds: float = 2.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._resolve = resolve
        self._connect = connect
        self._guard = guard
        self._by_pace = by_pace
        self._resolve_seconds = resolve_seconds
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._endpoints: dict[str, _Endpoint] = {}
        self._resolved_at = -resolve_seconds
        self._resolving = asyncio.Lock()
        self._probes: set[asyncio.Task[None]] = set()
        self._witnesses = Witnesses()

    async def infer(self, request: InferRequest) -> InferResponse:
        started = self._clock()
        endpoint, as_try = self._choose(request, started)
        if not as_try:
            return await self._call(endpoint, request, started)
        endpoint.guard.trying(request.model, started)
        return await self._tried(endpoint, request, started)

    def state(self) -> dict[str, Any]:
        """For operators: each endpoint, what it has, and what is known of its calls."""
        return {
            endpoint.address: {
                "in_flight": endpoint.in_flight,
                "ready": sorted(model for model, metadata in endpoint.known.items() if metadata.ready),
                "out": endpoint.guard.state(),
                "models": {model: pace.state() for model, pace in sorted(endpoint.paces.items())},
            }
            for endpoint in self._endpoints.values()
        }

    async def _call(self, endpoint: _Endpoint, request: InferRequest, started: float) -> InferResponse:
        model, pace = request.model, endpoint.pace(request.model)
        endpoint.in_flight += 1
        try:
            response = await endpoint.backend.infer(request)
        except DuetError as error:
            error.endpoint = endpoint.address
            self._failed(endpoint, request, error, started)
            raise
        except asyncio.CancelledError:
            if request.deadline is not None and asyncio.get_running_loop().time() >= request.deadline:
                self._late(endpoint, request, started)
            raise
        else:
            endpoint.guard.answered(model)
            now = self._clock()
            seconds = now - started
            pace.answered(now, seconds)
            self._witnesses.answered(request, seconds, pace.seconds, now)
            return response
        finally:
            endpoint.in_flight -= 1
            if endpoint.leaving and not endpoint.in_flight:
                await endpoint.backend.aclose()

    def _failed(self, endpoint: _Endpoint, request: InferRequest, error: DuetError, started: float) -> None:
        fault = error.fault or (_UNKNOWN if isinstance(error, Unavailable) else None)
        if isinstance(error, DeadlineExceeded) and (fault is None or fault.counts):
            self._late(endpoint, request, started)
            return
        if fault is None:
            return
        now, model = self._clock(), request.model
        witness = self._witness(endpoint, model)
        endpoint.guard.failed(model, fault, now, may_doubt=witness is not None)
        self._perhaps_judge(endpoint, witness, _JUDGED_SECONDS)
        if fault.counts or fault.name == "overload":
            endpoint.pace(model).failed(now, now - started)

    def _late(self, endpoint: _Endpoint, request: InferRequest, started: float) -> None:
        now, model = self._clock(), request.model
        pace, witness = endpoint.pace(model), self._witness(endpoint, model)
        may_doubt = witness is not None
        endpoint.guard.late(model, now - started, pace.seconds, now, request.callers, may_doubt=may_doubt)
        self._perhaps_judge(endpoint, witness, _LATE_JUDGED_SECONDS)
        pace.failed(now, now - started)

    def _witness(self, endpoint: _Endpoint, model: str) -> InferRequest | None:
        """A request that this endpoint should be able to answer."""
        found = self._witnesses.of(model)
        return found if found is not None and endpoint.serves(model, found.version) else None

    def _perhaps_judge(self, endpoint: _Endpoint, witness: InferRequest | None, seconds: float) -> None:
        if witness is None or witness.model in endpoint.judging or not endpoint.guard.doubts(witness.model):
            return
        endpoint.judging.add(witness.model)
        self._in_background(self._judge(endpoint, witness, seconds))

    async def _judge(self, endpoint: _Endpoint, witness: InferRequest, seconds: float) -> None:
        model = witness.model
        try:
            well = await self._answers(endpoint, witness, seconds)
        finally:
            endpoint.judging.discard(model)
        endpoint.guard.judged(model, well, self._clock())
        if well:
            log.info("%s: endpoint %s is well: requests for %s fail by themselves", self._name, endpoint.address, model)

    async def _answers(self, endpoint: _Endpoint, witness: InferRequest, seconds: float) -> bool:
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
        return True

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _tried(self, endpoint: _Endpoint, request: InferRequest, started: float) -> InferResponse:
        """A call that shows whether the endpoint is well. Errors that are the request's own show that it is.

        Where that is not sure, the endpoint is asked what it has answered before: a caller whose requests fail by
        themselves may be the one whose request is the try, each time.
        """
        well: bool | None = None
        witness: InferRequest | None = None
        try:
            response = await self._call(endpoint, request, started)
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

    async def _try_again(self, endpoint: _Endpoint, witness: InferRequest) -> None:
        well: bool | None = None
        try:
            well = await self._answers(endpoint, witness, _JUDGED_SECONDS)
        finally:
            endpoint.guard.tried(witness.model, well, self._clock())

    def _choose(self, request: InferRequest, now: float) -> tuple[_Endpoint, bool]:
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
            able = [endpoint for endpoint in able if not endpoint.judging] or able
        if len(able) == 1:
            return able[0], False
        one, other = random.sample(able, 2)  # drawn, so that of two idle ones not always the same is taken
        return (self._quicker(one, other, model, now) if self._by_pace else one), False

    def _quicker(self, one: _Endpoint, other: _Endpoint, model: str, now: float) -> _Endpoint:
        a, b = one.pace(model).expected(now), other.pace(model).expected(now)
        if not a or not b:  # one of them has not answered yet
            a = b = 1.0
        return one if a * (one.in_flight + 1) <= b * (other.in_flight + 1) else other

    def _nobody(self, out: Sequence[_Endpoint], model: str) -> Unavailable:
        if not out and any(model in endpoint.known for endpoint in self._endpoints.values()):
            error = Unavailable(SWAPPED, retry_after_seconds=1)
            error.fault = SWAP
            return error
        fails = any(WHOLE not in endpoint.guard.state() for endpoint in out)
        why = "fails for this model, and is tried again each second" if fails else "cannot be reached"
        error = Unavailable(f"{self._name} {why}", retry_after_seconds=1)
        error.fault = _OUT
        return error

    def _probe(self, endpoint: _Endpoint, request: InferRequest, now: float) -> None:
        """Sends a copy, whose answer nobody gets: the original's memory may be used again once that is answered."""
        endpoint.guard.trying(request.model, now)
        usual = endpoint.pace(request.model).seconds
        deadline = asyncio.get_running_loop().time() + max(self._answer_seconds, 3 * usual)
        self._in_background(self._probed(endpoint, _copied(request, deadline), deadline))

    async def _probed(self, endpoint: _Endpoint, request: InferRequest, deadline: float) -> None:
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
            return _merge(found)
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
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for endpoint in self._endpoints.values():
            await endpoint.backend.aclose()

    async def _ask(self, endpoint: _Endpoint, model: str) -> ModelMetadata | DuetError:
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
                self._endpoints[address] = _Endpoint(address, self._connect(address), self._guard(address))
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
    return replace(request, inputs=inputs, deadline=deadline)


def _of_both(one: VersionMetadata, other: VersionMetadata) -> VersionMetadata:
    """Of rows and batching only what holds at both endpoints: a joined call may go to either."""
    signatures = {
        name: signature
        if name not in other.signatures or other.signatures[name].rows is signature.rows
        else replace(signature, rows=_worse(signature.rows, other.signatures[name].rows))
        for name, signature in one.signatures.items()
    }
    return replace(one, signatures=signatures, batching=_narrower(one.batching, other.batching))


def _worse(one: Rows, other: Rows) -> Rows:
    return Rows.DEPENDENT if Rows.DEPENDENT in (one, other) else Rows.UNKNOWN


def _narrower(one: ServerBatching | None, other: ServerBatching | None) -> ServerBatching | None:
    if one is None or other is None:
        return None
    return min(one, other, key=lambda each: inf if each.max_rows is None else each.max_rows)


def _merge(answers: Sequence[ModelMetadata]) -> ModelMetadata:
    versions: dict[int, VersionMetadata] = {}
    for answer in answers:
        for number, version in answer.versions.items():
            if number not in versions or (version.ready and not versions[number].ready):
                versions[number] = version
            elif version.ready:
                versions[number] = _of_both(versions[number], version)
    defaults = [answer.default for answer in answers if answer.default is not None]
    ready = [default for default in defaults if versions[default].ready]
    first = answers[0]
    ordered: Mapping[int, VersionMetadata] = dict(sorted(versions.items()))
    default = max(ready or defaults, default=None)
    labels = {label: number for answer in reversed(answers) for label, number in answer.labels.items()}
    parallelism = sum(answer.parallelism for answer in answers)
    return ModelMetadata(first.model, first.variant, first.platform, ordered, default, labels, parallelism)
