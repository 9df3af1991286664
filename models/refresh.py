"""Brings artifacts that an earlier Duet has packed to today's handler and facts: no framework, no training.

An archive holds a copy of `serving/handler.py` of the day that it was made. Older copies join the rows of every model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from models.artifacts import Artifact, Store, read, read_member
from models.catalog import CATALOG
from models.export import HANDLER, repack, staging
from models.served import MARK, artifacts

OURS = b"\nclass TensorHandler"
"""Every handler of ours has it. An archive with a handler of the user's own is left alone."""


def refresh(root: Path, names: Collection[str]) -> list[Artifact]:
    """Pack these models' stale artifacts again, each in one step, and return them. Raises OSError."""
    store = Store(root)
    stale = [artifact for artifact in sorted(artifacts(root)) if artifact.name in names and is_stale(store, artifact)]
    if stale:
        with staging(root) as folder:
            for artifact in stale:
                repack(store, artifact, folder)
    return stale


def is_stale(store: Store, artifact: Artifact) -> bool:
    """Whether it is one of ours, not outdated, and would be packed otherwise today."""
    signature = store.signature(artifact)
    if signature is None or signature.get("opaque") or not (MARK in signature or is_documented(store, artifact)):
        return False
    if signature != store.renewed(artifact):
        return True
    if artifact.framework != "pytorch":
        return False
    handler = read_member(store.path(artifact), HANDLER)
    return handler is not None and OURS in handler and handler != read(store.handler)


def is_documented(store: Store, artifact: Artifact) -> bool:
    spec, renewed = CATALOG.get(artifact.name), store.renewed(artifact) or {}
    return spec is not None and renewed == spec.signature(artifact.version, str(renewed.get("fingerprint")))


def shown(artifacts: Collection[Artifact]) -> Iterator[str]:
    for artifact in artifacts:
        yield f"{artifact.name} {artifact.version} ({artifact.framework})"
