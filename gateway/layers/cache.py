"""Answers that were given before, for the same version, outputs and input bytes."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from gateway.backends.base import Backend, Layer
from gateway.errors import DeadlineExceeded, DuetError, Unavailable
from gateway.metrics import Metrics
from gateway.types import Criticality, InferRequest, InferResponse, Tensor

#: What an entry takes besides its tensors' bytes, about.
_ENTRY_BYTES = 1024
#: Above this, the bytes of an input take milliseconds to hash: not on the event loop.
_MAX_INLINE_BYTES = 1 << 20

Key = tuple[int | None, bytes]


@dataclass(slots=True)
class _Shelf:
    """A model's answers, the one used longest ago first, and the calls that are on their way for one."""

    max_bytes: int
    used_bytes: int = 0
    kept: OrderedDict[Key, InferResponse] = field(default_factory=OrderedDict)
    asked: dict[tuple[Key, Criticality], _Asked] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Asked:
    """One call for all who ask the same. ``waiting`` counts them."""

    task: asyncio.Task[InferResponse]
    waiting: int = 0


class Cache(Layer):
    """Keeps up to ``max_bytes`` (by model) of answers; models without an entry there pass through.

    Requests that are the same while the first is on its way share its call, if they are as critical: what is refused
    to a sheddable request need not be refused to a critical one. `forget` is to be called whenever other
    versions of a model are ready than before: a server may come back with other weights under the same number.
    """

    def __init__(self, inner: Backend, *, max_bytes: Mapping[str, int], metrics: Metrics, variant: str) -> None:
        super().__init__(inner)
        self._shelves = {model: _Shelf(size) for model, size in max_bytes.items()}
        self._variant = variant
        self._metrics = metrics

    async def infer(self, request: InferRequest) -> InferResponse:
        shelf = self._shelves.get(request.model)
        if shelf is None or request.payload is not None:  # what an opaque body means is not known
            return await self.inner.infer(request)
        start = perf_counter()
        key = await _key(request)
        kept = shelf.kept.get(key)
        seconds = perf_counter() - start
        if kept is not None:
            shelf.kept.move_to_end(key)
            self._count(request.model, "hit")
            return _again(kept, {"cache_hit": seconds}, execution_rows=0)
        response, outcome = await self._shared(shelf, key, request)
        self._count(request.model, outcome)
        if outcome == "joined":
            return _again(response, {**response.timings, "cache_miss": seconds}, execution_rows=0)
        return _again(response, {**response.timings, "cache_miss": seconds}, execution_rows=response.execution_rows)

    def forget(self, model: str) -> None:
        """Drops the model's answers; calls on their way are still answered, but not kept."""
        old = self._shelves.get(model)
        if old is not None:
            self._shelves[model] = _Shelf(old.max_bytes)
            self._metrics.cache_bytes(model, self._variant).set(0)

    async def aclose(self) -> None:
        for shelf in self._shelves.values():
            for asked in shelf.asked.values():
                asked.task.cancel()
        await self.inner.aclose()

    async def _shared(self, shelf: _Shelf, key: Key, request: InferRequest) -> tuple[InferResponse, str]:
        """The answer to the call that the same requests share, and whether it was on its way before."""
        call = key, request.criticality
        while True:
            asked = shelf.asked.get(call)
            outcome = "miss" if asked is None else "joined"
            if asked is None:
                asked = shelf.asked[call] = _Asked(asyncio.create_task(self._ask(shelf, key, request)))
            asked.waiting += 1
            try:
                return await asyncio.shield(asked.task), outcome
            except DeadlineExceeded as error:
                # The call had the deadline of the first who asked; others may have time left.
                now = asyncio.get_running_loop().time()
                if outcome == "miss" or (request.deadline is not None and request.deadline <= now):
                    raise copy.copy(error) from error
            except DuetError as error:
                raise copy.copy(error) from error
            except asyncio.CancelledError:
                if asked.task.cancelled():
                    raise Unavailable("the gateway was told to stop at once", retry_after_seconds=1) from None
                raise
            finally:
                asked.waiting -= 1
                if not asked.waiting and not asked.task.done():
                    asked.task.cancel()
                    _drop(shelf, call, asked)

    async def _ask(self, shelf: _Shelf, key: Key, request: InferRequest) -> InferResponse:
        mine = asyncio.current_task()
        try:
            response = await self.inner.infer(request)
        finally:
            call = key, request.criticality
            asked = shelf.asked.get(call)
            if asked is not None and asked.task is mine:
                del shelf.asked[call]
        if shelf is self._shelves[request.model]:
            self._keep(shelf, key, response)
        return response

    def _keep(self, shelf: _Shelf, key: Key, response: InferResponse) -> None:
        # Copies: an answer may be a part of a batch's, and would keep all of it in memory.
        outputs = tuple(_own(tensor) for tensor in response.outputs)
        kept = InferResponse(response.model, response.variant, response.version, outputs)
        size = _size(kept)
        if size > shelf.max_bytes:
            return
        shelf.kept[key] = kept
        shelf.used_bytes += size
        while shelf.used_bytes > shelf.max_bytes:
            _, oldest = shelf.kept.popitem(last=False)
            shelf.used_bytes -= _size(oldest)
        self._metrics.cache_bytes(response.model, self._variant).set(shelf.used_bytes)

    def _count(self, model: str, outcome: str) -> None:
        self._metrics.cache_requests(model, self._variant, outcome).inc()


async def _key(request: InferRequest) -> Key:
    if sum(tensor.data.nbytes for tensor in request.inputs) > _MAX_INLINE_BYTES:
        return request.version, await asyncio.to_thread(_digest, request)
    return request.version, _digest(request)


def _digest(request: InferRequest) -> bytes:
    """Of all that an answer follows from. Each part is preceded by its form, so that no two requests read the same."""
    digest = hashlib.blake2b(repr((request.signature_name, request.outputs)).encode(), digest_size=32)
    for tensor in request.inputs:
        digest.update(repr((tensor.name, tensor.datatype, tensor.shape)).encode())
        if tensor.datatype == "BYTES":
            for item in tensor.data.ravel():
                digest.update(len(item).to_bytes(8, "little"))
                digest.update(item)
        else:
            digest.update(np.ascontiguousarray(tensor.data).data)
    return digest.digest()


def _drop(shelf: _Shelf, call: tuple[Key, Criticality], asked: _Asked) -> None:
    if shelf.asked.get(call) is asked:
        del shelf.asked[call]


def _again(response: InferResponse, timings: dict[str, float], *, execution_rows: int | None) -> InferResponse:
    return InferResponse(
        response.model, response.variant, response.version, response.outputs, timings, execution_rows=execution_rows
    )


def _own(tensor: Tensor) -> Tensor:
    data = tensor.data.copy()
    data.flags.writeable = False
    return Tensor(tensor.name, tensor.datatype, data)


def _size(response: InferResponse) -> int:
    size = _ENTRY_BYTES
    for tensor in response.outputs:
        size += tensor.data.nbytes
        if tensor.datatype == "BYTES":
            size += sum(map(len, tensor.data.ravel())) + 33 * tensor.data.size  # an empty bytes object is 33 bytes
    return size
