"""Adaptive micro-batching: a request goes out at once while the server has room, otherwise with what has queued.

There is no delay to wait for company. While fewer calls are in flight than the server works on at a time, a request is
handed on as it is, in its caller's own task and without a copy. Otherwise it queues; when a call ends, what has queued
meanwhile goes out as one call, joined along the first dimension.

Not every first dimension is a batch: a sequence's positions or a whole that is normalised depend on one another. So
the first requests of a version that meet are asked alone and joined, and only where the answers agree are later ones
joined. Until then, and for all that cannot be joined, requests pass as if this layer were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.backends.base import Backend, Layer
from gateway.layers import rows
from gateway.layers.lane import Batch, Lane
from gateway.metrics import Metrics
from gateway.types import InferRequest, InferResponse, ModelMetadata, Signature

_Key = tuple[str, int | None, str]


class Batching(Layer):
    """Joins the requests for one version and signature of a model.

    ``metadata`` tells what is known of a model now, without asking its server. ``default`` is for models that
    ``models`` does not name; None, in either, leaves a model's requests as they are.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        metadata: Callable[[str], ModelMetadata | None],
        metrics: Metrics,
        default: Batch | None,
        models: Mapping[str, Batch | None] | None = None,
    ) -> None:
        super().__init__(inner)
        self._metadata = metadata
        self._metrics = metrics
        self._default = default
        self._models = models or {}
        self._buffers = rows.Buffers()
        self._lanes: dict[_Key, Lane] = {}

    async def infer(self, request: InferRequest) -> InferResponse:
        key = (request.model, request.version, request.signature_name)
        known = self._metadata(request.model)
        lane = self._lanes.get(key)
        if known is not None and (lane is None or lane.known is not known):
            lane = self._refreshed(key, known)
        if lane is None:
            return await self.inner.infer(request)
        return await lane.infer(request)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return all(lane.idle for lane in self._lanes.values())

    async def aclose(self) -> None:
        for lane in self._lanes.values():
            lane.close()
        await self.inner.aclose()

    def _refreshed(self, key: _Key, known: ModelMetadata) -> Lane | None:
        """The lane, after the server was asked about the model again; None where requests are not joined."""
        model, version, name = key
        signature = _signature(known, version, name)
        lane = self._lanes.get(key)
        if lane is not None and lane.signature == signature:
            lane.follow(known)
            return lane
        batch = self._models.get(model, self._default)
        if batch is None or signature is None or not rows.can_join(signature):
            self._lanes.pop(key, None)
            return None
        self._forget_gone(known)
        self._lanes[key] = Lane(self.inner, batch, signature, known, self._buffers, self._metrics, version)
        return self._lanes[key]

    def _forget_gone(self, known: ModelMetadata) -> None:
        gone = [key for key in self._lanes if key[0] == known.model and key[1] not in known.versions]
        for key in gone:
            if self._lanes[key].idle:
                del self._lanes[key]


def _signature(known: ModelMetadata, version: int | None, name: str) -> Signature | None:
    found = known.versions.get(version) if version is not None else None
    return found.signatures.get(name) if found is not None else None
