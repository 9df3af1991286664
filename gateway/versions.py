"""Which version serves a request."""

from __future__ import annotations

from gateway.errors import Unavailable, UnknownVersion
from gateway.types import ModelMetadata, VersionMetadata


def choose(metadata: ModelMetadata, version: int | None) -> VersionMetadata:
    """The version asked for, or the default. Raises UnknownVersion, or Unavailable where it is not ready now."""
    name = f"{metadata.model}@{metadata.variant}"
    chosen = metadata.default if version is None else version
    found = metadata.versions.get(chosen) if chosen is not None else None
    if found is None and version is not None:
        known = ", ".join(map(str, metadata.versions)) or "none"
        raise UnknownVersion(f"{name} has no version {version}; its versions are {known}")
    if found is None or not found.ready:
        reasons = {entry.reason for entry in metadata.versions.values() if entry.reason}
        reason = found.reason if found else "; ".join(sorted(reasons)) or "no version is ready"
        raise Unavailable(f"{name} is not ready: {reason}", retry_after_seconds=1)
    return found
