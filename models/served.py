"""The single list of what is served: the documented models and those that a user has imported. Imports no framework.

What is imported says so itself, in the signature that its artifact carries; there is no second list to keep in step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.artifacts import Artifact, Store, read_json
from models.catalog import CATALOG
from models.spec import FRAMEWORKS, TensorSpec, UnknownNameError

MARK = "imported"
"""The key of a signature that says where an imported model came from."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A request's body, kept in a file, for a model whose handler is the user's own."""

    path: Path
    content_type: str

    def read(self) -> bytes:
        """Raises OSError."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Served:
    """One model as clients see it. `versions` by variant, ascending; a model that was imported may have one variant.

    An `opaque` one has a handler of the user's own and neither inputs nor outputs: bodies go to it as they are.
    """

    name: str
    description: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: Mapping[str, tuple[int, ...]]
    example: Mapping[str, Any] | None = field(default=None, repr=False)
    """A request with one row that an imported model has answered, name -> nested lists; of a documented one None.

    An element of BYTES is text, or `{"b64": "..."}` for bytes that are no text.
    """
    opaque: bool = False
    payload: Payload | None = field(default=None, repr=False)

    @property
    def variants(self) -> tuple[str, ...]:
        """The default first."""
        return tuple(self.versions)

    @property
    def is_imported(self) -> bool:
        return self.name not in CATALOG


def served(root: Path, names: Iterable[str] = ()) -> list[Served]:
    """The documented models in the catalog's order, then the imported ones by name; of `names` alone if there are any.

    Documented models are listed whether they are trained yet or not. Raises UnknownNameError.
    """
    everything = {model.name: model for model in (*documented(), *imported(root))}
    wanted = set(names) or set(everything)
    if unknown := sorted(wanted - set(everything)):
        raise UnknownNameError(f"no model named {', '.join(unknown)}; there are {', '.join(everything)}")
    return [model for model in everything.values() if model.name in wanted]


def documented() -> Iterator[Served]:
    for spec in CATALOG.values():
        yield Served(spec.name, spec.description, spec.inputs, spec.outputs, dict.fromkeys(FRAMEWORKS, spec.versions))


def imported(root: Path) -> list[Served]:
    """The user's own models, each described by the highest version of its first variant."""
    store = Store(root)
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for artifact in sorted(artifacts(root)):
        signature = store.signature(artifact)
        if signature is not None and MARK in signature and artifact.name not in CATALOG:
            found.setdefault(artifact.name, {}).setdefault(artifact.framework, {})[artifact.version] = signature
    return [describe(store, name, of_variants) for name, of_variants in sorted(found.items())]


def artifacts(root: Path) -> Iterator[Artifact]:
    """Whatever lies where the servers look for models."""
    for folder in root.glob("tensorflow/*/*"):
        if folder.name.isdecimal():
            yield Artifact(folder.parent.name, int(folder.name), "tensorflow")
    for archive in root.glob("pytorch/*-*.mar"):
        name, _, version = archive.stem.rpartition("-")
        if version.isdecimal():
            yield Artifact(name, int(version), "pytorch")


def told_rows(root: Path, models: Iterable[Served]) -> dict[str, dict[str, str]]:
    """What is known of the rows of each model's variants, by what lies there: `independent` or `dependent`.

    A server serves every version that lies there. `independent` takes all of them, `dependent` one; the rest is left
    out.
    """
    store = Store(root)
    found: dict[tuple[str, str], set[object]] = {}
    for artifact in artifacts(root):
        signature = store.signature(artifact) or {}
        found.setdefault((artifact.name, artifact.framework), set()).add(signature.get("rows"))
    told: dict[str, dict[str, str]] = {}
    for model in models:
        for variant in model.variants:
            said = found.get((model.name, variant), set())
            if "dependent" in said or said == {"independent"}:
                told.setdefault(model.name, {})[variant] = "dependent" if "dependent" in said else "independent"
    return told


def describe(store: Store, name: str, of_variants: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Served:
    versions = {kind: tuple(sorted(of_variants[kind])) for kind in FRAMEWORKS if kind in of_variants}
    first = next(iter(versions))
    latest = versions[first][-1]
    signature = of_variants[first][latest]
    record = read_json(record_path(store, Artifact(name, latest, first))) or {}
    return Served(
        name=name,
        description=str(signature.get("description", "")),
        inputs=tensors(signature["inputs"]),
        outputs=tensors(signature["outputs"]),
        versions=versions,
        example=record.get("example"),
        opaque=bool(signature.get("opaque")),
        payload=payload(store, Artifact(name, latest, first), record),
    )


def payload(store: Store, artifact: Artifact, record: Mapping[str, Any]) -> Payload | None:
    path = payload_path(store, artifact)
    return Payload(path, str(record.get("content_type", ""))) if path.is_file() else None


def tensors(listed: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(one["name"], one["datatype"], tuple(one["shape"]), bool(one.get("optional"))) for one in listed
    )


def record_path(store: Store, artifact: Artifact) -> Path:
    """Of an imported artifact: where it came from, and a request that it has answered."""
    return store.root / "imported" / f"{artifact.name}-{artifact.version}-{artifact.framework}.json"


def payload_path(store: Store, artifact: Artifact) -> Path:
    """Of an imported archive with a handler of its own: the body that it is shown with."""
    return store.root / "imported" / f"{artifact.name}-{artifact.version}-{artifact.framework}.body"
