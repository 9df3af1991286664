"""One server at several addresses: each call goes to one of them, chosen for that call.

gRPC keeps one connection, and a Kubernetes ClusterIP sends all of a connection's calls to one pod; so the choice is
made here, over the addresses that the names stand for now (a headless service's name stands for its pods).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from gateway.backends.base import Backend
from gateway.errors import DuetError, NotFound, Unavailable
from gateway.types import InferRequest, InferResponse, ModelMetadata, VersionMetadata

log = logging.getLogger("duet.backends")

#: Silences in a row (not refusals) after which an endpoint is not ready: a busy one may be late once.
_MISSES_ALLOWED = 3


@dataclass(slots=True, eq=False)
class _Endpoint:
    address: str
    backend: Backend
    in_flight: int = 0
    leaving: bool = False
    known: dict[str, ModelMetadata] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)

    def serves(self, model: str, version: int | None) -> bool:
        metadata = self.known.get(model)
        found = metadata.versions.get(version) if metadata is not None and version is not None else None
        return found is not None and found.ready


class Balanced:
    """The Backend that a server's endpoints are together.

    ``resolve`` tells the addresses, asked at most every ``resolve_seconds``; ``connect`` makes the Backend of one. A
    version is ready where one endpoint has it ready. A call goes to the one of two such endpoints, drawn at random,
    that has fewer in flight; one that fails with Unavailable gets no more of that model (of none, where it cannot be
    reached) until it has told its metadata again.
    """

    def __init__(
        self,
        *,
        name: str,
        resolve: Callable[[], Awaitable[Collection[str]]],
        connect: Callable[[str], Backend],
        resolve_seconds: float = 2.0,
        answer_seconds: float = 2.0,
    ) -> None:
        self._name = name
        self._resolve = resolve
        self._connect = connect
        self._resolve_seconds = resolve_seconds
        self._answer_seconds = answer_seconds
        self._endpoints: dict[str, _Endpoint] = {}
        self._resolved_at = -resolve_seconds
        self._resolving = asyncio.Lock()

    async def infer(self, request: InferRequest) -> InferResponse:
        endpoint = self._choose(request)
        endpoint.in_flight += 1
        try:
            return await endpoint.backend.infer(request)
        except Unavailable as error:
            if error.fault is None or error.fault.unreachable:
                endpoint.known.clear()
            else:  # this model's matter: the endpoint's others go on
                endpoint.known.pop(request.model, None)
            raise
        finally:
            endpoint.in_flight -= 1
            if endpoint.leaving and not endpoint.in_flight:
                await endpoint.backend.aclose()

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
        for endpoint in self._endpoints.values():
            await endpoint.backend.aclose()

    def _choose(self, request: InferRequest) -> _Endpoint:
        able = [endpoint for endpoint in self._endpoints.values() if endpoint.serves(request.model, request.version)]
        if not able:
            raise Unavailable(f"{self._name} cannot be reached", retry_after_seconds=1)
        if len(able) > 1:  # drawn, so that of two idle ones not always the same is taken
            able = random.sample(able, 2)
        return min(able, key=lambda endpoint: endpoint.in_flight)

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
        return metadata

    async def _follow(self) -> None:
        """Looks the names up again where that is due; endpoints that are gone end what they have in flight."""
        async with self._resolving:
            if monotonic() - self._resolved_at < self._resolve_seconds:
                return
            try:
                addresses = set(await self._resolve())
            except OSError as error:
                log.warning("%s: its name cannot be looked up: %s", self._name, error.strerror or error)
                addresses = set(self._endpoints)
            self._resolved_at = monotonic()
            for address in addresses - self._endpoints.keys():
                log.info("%s: endpoint %s", self._name, address)
                self._endpoints[address] = _Endpoint(address, self._connect(address))
            for address in self._endpoints.keys() - addresses:
                log.info("%s: endpoint %s is gone", self._name, address)
                endpoint = self._endpoints.pop(address)
                endpoint.leaving = True
                if not endpoint.in_flight:
                    await endpoint.backend.aclose()


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses that ``host`` stands for now. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family = found[0][0]  # a pod with two families is still one pod
    return [str(entry[4][0]) for entry in found if entry[0] == family]


def _merge(answers: Sequence[ModelMetadata]) -> ModelMetadata:
    versions: dict[int, VersionMetadata] = {}
    for answer in answers:
        for number, version in answer.versions.items():
            if number not in versions or (version.ready and not versions[number].ready):
                versions[number] = version
    defaults = [answer.default for answer in answers if answer.default is not None]
    ready = [default for default in defaults if versions[default].ready]
    first = answers[0]
    ordered: Mapping[int, VersionMetadata] = dict(sorted(versions.items()))
    default = max(ready or defaults, default=None)
    labels = {label: number for answer in reversed(answers) for label, number in answer.labels.items()}
    parallelism = sum(answer.parallelism for answer in answers)
    return ModelMetadata(first.model, first.variant, first.platform, ordered, default, labels, parallelism)
