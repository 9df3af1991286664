"""Adaptive micro-batching: a request goes out at once while the server has room, otherwise with what has queued.

There is no delay to wait for company. While fewer calls are in flight than the server works on at a time, a request is
handed on as it is, in its caller's own task and without a copy. Otherwise it queues; when a call ends, what has queued
meanwhile goes out as one call, joined along the first dimension.

Not every first dimension is a batch: a sequence's positions depend on one another, and so do the rows of a model that
normalises over all of them, or that takes one quantisation scale for all. Joined, such rows are answered wrongly and
without an error. So rows are joined only where they are known to be independent (`gateway.layers.independence`): the
artifact says so, the server's own configuration batches the model, or the operator's setting ``batching.rows`` says so.
All other requests pass as if this layer were not there.

Where rows are joined, a few batches are asked again request by request (`gateway.layers.sample`). The first difference
turns batching off for that model and version, with all its signatures, until another version comes or the gateway is
restarted. An artifact that has changed under the same number is another version. With several workers each process
judges for itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.backends.base import Backend, Layer
from gateway.layers import rows
from gateway.layers.independence import Evidence, Independence, identity, known
from gateway.layers.lane import Batch, Lane
from gateway.metrics import Metrics
from gateway.types import InferRequest, InferResponse, ModelMetadata, Rows, Signature, VersionMetadata

log = logging.getLogger("duet.batching")

_Key = tuple[str, int | None, str]


class Batching(Layer):
    """Joins the requests for one version and signature of a model.

    ``metadata`` tells what is known of a model now, without asking its server. ``default`` is for models that
    ``models`` does not name; None, in either, leaves a model's requests as they are. ``again`` is where samples are
    asked, so that no retry and no metric of callers is spent on them; without it, where all else goes.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        metadata: Callable[[str], ModelMetadata | None],
        metrics: Metrics,
        default: Batch | None,
        models: Mapping[str, Batch | None] | None = None,
        again: Backend | None = None,
    ) -> None:
        super().__init__(inner)
        self._metadata = metadata
        self._metrics = metrics
        self._default = default
        self._models = models or {}
        self._again = again or inner
        self._buffers = rows.Buffers()
        self._lanes: dict[_Key, Lane] = {}
        self._evidence: dict[tuple[str, int], Evidence] = {}

    async def infer(self, request: InferRequest) -> InferResponse:
        key = (request.model, request.version, request.signature_name)
        found = self._metadata(request.model)
        lane = self._lanes.get(key)
        if found is not None and (lane is None or lane.known is not found):
            lane = self._refreshed(key, found)
        if lane is None or not lane.joins:
            return await self.inner.infer(request)
        return await lane.infer(request)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return all(lane.idle for lane in self._lanes.values())

    def joins(self, model: str) -> bool:
        """Whether requests for any version of the model are joined now."""
        found = self._metadata(model)
        batch = self._models.get(model, self._default)
        if found is None or batch is None:
            return False
        return any(
            self._independence(model, version, signature, batch).rows is Rows.INDEPENDENT
            for number, version in found.versions.items()
            if (model, number) not in self._evidence or not self._evidence[model, number].refuted
            for signature in version.signatures.values()
        )

    def state(self, models: Iterable[str]) -> dict[str, Any]:
        """For operators: model -> version -> signature -> whether its requests are joined, and why.

        Models that are not known, and those without batching, are left out.
        """
        told: dict[str, Any] = {}
        for model in models:
            found, batch = self._metadata(model), self._models.get(model, self._default)
            if found is not None and batch is not None:
                told[model] = {
                    str(number): {
                        name: self._told(model, version, signature, batch)
                        for name, signature in version.signatures.items()
                    }
                    for number, version in found.versions.items()
                    if version.signatures
                }
        return told

    async def aclose(self) -> None:
        for lane in self._lanes.values():
            lane.close()
        await self.inner.aclose()

    def _refreshed(self, key: _Key, found: ModelMetadata) -> Lane | None:
        """The lane, after the server was asked about the model again; None where requests can never be joined."""
        model, number, name = key
        version = found.versions.get(number) if number is not None else None
        signature = version.signatures.get(name) if version is not None else None
        batch = self._models.get(model, self._default)
        lane = self._lanes.get(key)
        if version is None or signature is None or batch is None or not rows.can_join(signature):
            self._retire(key)
            return None
        independence = self._independence(model, version, signature, batch)
        evidence = self._evidence_of(model, version)
        self._log_unknown(found, version, independence, evidence)
        if lane is not None and lane.signature == signature and lane.evidence is evidence:
            lane.follow(found, independence)
            return lane
        self._retire(key)
        self._forget_gone(found)
        self._lanes[key] = Lane(
            self.inner,
            self._again,
            batch=batch,
            signature=signature,
            known=found,
            version=number,
            independence=independence,
            evidence=evidence,
            buffers=self._buffers,
            metrics=self._metrics,
        )
        return self._lanes[key]

    def _retire(self, key: _Key) -> None:
        lane = self._lanes.pop(key, None)
        if lane is not None:
            lane.retire()

    def _independence(self, model: str, version: VersionMetadata, signature: Signature, batch: Batch) -> Independence:
        if not rows.can_join(signature):
            return Independence(Rows.UNKNOWN, "its inputs and outputs do not all have a free first dimension")
        return known(model, signature, version.batching, batch.operator)

    def _evidence_of(self, model: str, version: VersionMetadata) -> Evidence:
        """What is known of the version; nothing where another artifact has taken its number.

        To be asked of versions with signatures alone: one that is not ready has none, and may come back as it was.
        """
        key = (model, version.version)
        found, now = self._evidence.get(key), identity(version)
        if found is None or found.identity != now:
            found = self._evidence[key] = Evidence(now)
        return found

    def _log_unknown(
        self, found: ModelMetadata, version: VersionMetadata, independence: Independence, evidence: Evidence
    ) -> None:
        if independence.rows is Rows.UNKNOWN and not evidence.logged:
            evidence.logged = True
            log.warning(
                "%s@%s version %s is not batched: %s", found.model, found.variant, version.version, independence.why
            )

    def _told(self, model: str, version: VersionMetadata, signature: Signature, batch: Batch) -> dict[str, Any]:
        independence, evidence = self._independence(model, version, signature, batch), self._evidence_of(model, version)
        told = {"rows": independence.rows.value, "joined": independence.rows is Rows.INDEPENDENT}
        counts = {"samples": evidence.samples, "differences": evidence.differences}
        if evidence.refuted:
            why = f"off until another version comes or the gateway is restarted: {evidence.refuted}"
            return {**told, "joined": False, "why": why, **counts}
        return {**told, "why": independence.why, **counts}

    def _forget_gone(self, found: ModelMetadata) -> None:
        gone = [key for key in self._lanes if key[0] == found.model and key[1] not in found.versions]
        for key in gone:
            if self._lanes[key].idle:
                del self._lanes[key]
        for number in [key[1] for key in self._evidence if key[0] == found.model and key[1] not in found.versions]:
            del self._evidence[found.model, number]
