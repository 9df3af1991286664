"""What several endpoints of one server say of a model, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

from gateway.types import ModelMetadata, Rows, ServerBatching, VersionMetadata


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


def merged(answers: Sequence[ModelMetadata]) -> ModelMetadata:
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
