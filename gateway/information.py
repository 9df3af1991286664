"""What the v2 fronts tell about models, the same over REST and gRPC: index, metadata, configuration, statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.backends.base import Backend
from gateway.codecs import v2_models as codec
from gateway.errors import DuetError, InvalidArgument, NotFound
from gateway.statistics import Compute, Counts, Duration, Served, Statistics
from gateway.types import DEFAULT_SIGNATURE, ModelMetadata, Signature, VersionMetadata

Models = Callable[[], Iterable[str]]


class Information:
    """``models`` names the models there are, ``statistics`` is what the observer fills."""

    def __init__(self, backend: Backend, *, models: Models, statistics: Statistics) -> None:
        self._backend = backend
        self._models = models
        self._statistics = statistics

    def models(self) -> list[str]:
        return sorted(self._models())

    async def describe(self, name: str, version: int | None) -> tuple[ModelMetadata, VersionMetadata]:
        """The model and the version asked for, ready or not; ``name`` may be pinned. Raises NotFound, Unavailable."""
        metadata = await self._backend.metadata(name)
        if version is None:
            version = metadata.default
        if version is None:
            return metadata, VersionMetadata(0, ready=False)
        if version not in metadata.versions:
            known = ", ".join(map(str, metadata.versions)) or "none"
            raise NotFound(f"{metadata.model}@{metadata.variant} has no version {version}; its versions are {known}")
        return metadata, metadata.versions[version]

    async def signature(
        self, name: str, version: int | None, chosen: str
    ) -> tuple[ModelMetadata, VersionMetadata, Signature | None]:
        """The same, and the signature that is called ``chosen``; None where none is known. Raises InvalidArgument."""
        metadata, found = await self.describe(name, version)
        if found.signatures and chosen not in found.signatures and chosen != DEFAULT_SIGNATURE:
            known = ", ".join(sorted(found.signatures))
            raise InvalidArgument(f"no signature {chosen!r}; the model's signatures are {known}")
        return metadata, found, found.signatures.get(chosen)

    async def ready(self, name: str, version: int | None) -> bool:
        """False for what is unknown too."""
        try:
            _, chosen = await self.describe(name, version)
        except DuetError:
            return False
        return chosen.ready

    async def index(self, *, only_ready: bool) -> list[dict[str, Any]]:
        """Each version of each model, of its default variant."""
        entries = [entry for name in self.models() for entry in await self._entries(name)]
        return [entry.document() for entry in entries if entry.ready or not only_ready]

    async def statistics(self, name: str | None, version: int | None) -> dict[str, Any]:
        """Of one model (all its ready versions or the one asked for), or of all models.

        Of all: those that no client pinned go by the model's name, other variants that were called by ``name@variant``.
        Raises NotFound, Unavailable.
        """
        if name is not None:
            metadata, chosen = await self.describe(name, version)
            versions = [chosen] if version is not None else [v for v in metadata.versions.values() if v.ready]
            found = [(metadata.model, Served(metadata.model, metadata.variant, str(v.version))) for v in versions]
        else:
            found = await self._all_served()
        return {"model_stats": [_statistics(label, served, self._statistics.of(served)) for label, served in found]}

    async def _all_served(self) -> list[tuple[str, Served]]:
        found: dict[Served, str] = {}
        for name in self.models():
            try:
                metadata = await self._backend.metadata(name)
            except DuetError:
                continue
            ready = [version for version in metadata.versions.values() if version.ready]
            found |= {Served(metadata.model, metadata.variant, str(v.version)): metadata.model for v in ready}
        told = set(self.models())  # what the caller may be told of
        for served in self._statistics:
            if served.model in told:
                found.setdefault(served, f"{served.model}@{served.variant}")
        return [(label, served) for served, label in found.items()]

    async def _entries(self, name: str) -> list[codec.IndexEntry]:
        try:
            metadata = await self._backend.metadata(name)
        except DuetError as error:
            return [codec.IndexEntry(name, None, ready=False, reason=error.message)]
        return [
            codec.IndexEntry(name, entry.version, entry.ready, entry.reason) for entry in metadata.versions.values()
        ] or [codec.IndexEntry(name, None, ready=False, reason="it has no version")]


def _statistics(name: str, served: Served, counts: Counts) -> dict[str, Any]:
    return {
        "name": name,
        "version": served.version,
        "last_inference": counts.last_milliseconds,
        "inference_count": counts.inferences,
        "execution_count": counts.executions,
        "inference_stats": {
            "success": _duration(counts.success),
            "fail": _duration(counts.fail),
            "queue": _duration(counts.queue),
            **_compute(counts.compute),
            "cache_hit": _duration(counts.cache_hit),
            "cache_miss": _duration(counts.cache_miss),
        },
        "batch_stats": [{"batch_size": size, **_compute(compute)} for size, compute in sorted(counts.batches.items())],
    }


def _compute(compute: Compute) -> dict[str, Any]:
    parts = (("compute_input", compute.input), ("compute_infer", compute.infer), ("compute_output", compute.output))
    return {name: _duration(duration) for name, duration in parts}


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
