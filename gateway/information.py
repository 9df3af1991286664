"""What the v2 fronts tell about models, the same over REST and gRPC: index, metadata, configuration, statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.backends.base import Entry
from gateway.codecs import v2_models as codec
from gateway.core.modelref import DEFAULT_SIGNATURE, ModelRef
from gateway.errors import DuetError, InvalidArgument, NotFound
from gateway.statistics import Compute, Counts, Duration, Served, Statistics
from gateway.types import ModelMetadata, Signature, VersionMetadata

Models = Callable[[], Iterable[str]]


class Information:
    """``models`` names the models there are, ``statistics`` is what the observer fills."""

    def __init__(self, entry: Entry, *, models: Models, statistics: Statistics) -> None:
        self._entry = entry
        self._models = models
        self._statistics = statistics

    def models(self) -> list[str]:
        return sorted(self._models())

    def describe(self, ref: ModelRef) -> tuple[ModelMetadata, VersionMetadata]:
        """The model and the version asked for, ready or not. Raises NotFound, Unavailable."""
        metadata = self._entry.describe(ref)
        version = metadata.default if ref.version is None else ref.version
        if version is None:
            return metadata, VersionMetadata(0, ready=False)
        if version not in metadata.versions:
            known = ", ".join(map(str, metadata.versions)) or "none"
            raise NotFound(f"{metadata.model}@{metadata.variant} has no version {version}; its versions are {known}")
        return metadata, metadata.versions[version]

    def signature(self, ref: ModelRef) -> tuple[ModelMetadata, VersionMetadata, Signature | None]:
        """The same, and the ref's signature; None where no signature is known. Raises InvalidArgument."""
        metadata, found = self.describe(ref)
        if found.signatures and ref.signature not in found.signatures and ref.signature != DEFAULT_SIGNATURE:
            known = ", ".join(sorted(found.signatures))
            raise InvalidArgument(f"no signature {ref.signature!r}; the model's signatures are {known}")
        return metadata, found, found.signatures.get(ref.signature)

    def ready(self, ref: ModelRef) -> bool:
        """False for what is unknown too."""
        try:
            _, chosen = self.describe(ref)
        except DuetError:
            return False
        return chosen.ready

    def index(self, *, only_ready: bool) -> list[dict[str, Any]]:
        """Each version of each model, of its default variant."""
        entries = [entry for name in self.models() for entry in self._entries(name)]
        return [entry.document() for entry in entries if entry.ready or not only_ready]

    def statistics(self, ref: ModelRef | None) -> dict[str, Any]:
        """Of one model (all its ready versions or the one asked for), or of all models.

        Of all: those that no client pinned go by the model's name, other variants that were called by ``name@variant``.
        Raises NotFound, Unavailable.
        """
        if ref is not None:
            metadata, chosen = self.describe(ref)
            versions = [chosen] if ref.version is not None else [v for v in metadata.versions.values() if v.ready]
            found = [(metadata.model, Served(metadata.model, metadata.variant, str(v.version))) for v in versions]
        else:
            found = self._all_served()
        return {"model_stats": [_statistics(label, served, self._statistics.of(served)) for label, served in found]}

    def _all_served(self) -> list[tuple[str, Served]]:
        found: dict[Served, str] = {}
        for name in self.models():
            try:
                metadata = self._entry.describe(ModelRef(name))
            except DuetError:
                continue
            ready = [version for version in metadata.versions.values() if version.ready]
            found |= {Served(metadata.model, metadata.variant, str(v.version)): metadata.model for v in ready}
        told = set(self.models())  # what the caller may be told of
        for served in self._statistics:
            if served.model in told:
                found.setdefault(served, f"{served.model}@{served.variant}")
        return [(label, served) for served, label in found.items()]

    def _entries(self, name: str) -> list[codec.IndexEntry]:
        try:
            metadata = self._entry.describe(ModelRef(name))
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
