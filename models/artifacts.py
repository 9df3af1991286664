"""Where the artifacts lie, and whether each is what the catalog asks for. Imports no framework.

    artifacts/tensorflow/<name>/<version>/                     SavedModel or model.tflite, and assets.extra/duet.json
    artifacts/pytorch/<name>-<version>.mar                     TorchServe archive: model.pt, handler.py, signature.json
    artifacts/training/<name>-<version>-<framework>.json       how it came to be: losses, accuracy, seconds, bytes

>>> Store(Path("artifacts")).path(Artifact("convnet", 1, "pytorch")).as_posix()
'artifacts/pytorch/convnet-1.mar'
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from models.catalog import CATALOG, select, select_frameworks
from models.spec import NATIVE, TRANSPLANTED, ModelSpec

HANDLER = Path(__file__).parents[1] / "serving" / "handler.py"
SIGNATURE_IN_SAVED_MODEL = "assets.extra/duet.json"
SIGNATURE_IN_ARCHIVE = "signature.json"
DESCRIPTION_IN_ARCHIVE = "MAR-INF/duet.json"
"""What Duet knows of an archive whose handler is the user's own; its other members are not ours to name."""
GRAPHS = ("saved_model.pb", "model.tflite")
"""What TensorFlow's server loads from a version's folder: one of these."""


class State(StrEnum):
    READY = "ready"
    MISSING = "missing"
    OUTDATED = "outdated"
    """Of another signature, from a run that did not finish, or of weights that PyTorch's version 1 has no more."""
    OLD_HANDLER = "old handler"
    """An archive whose weights are right and whose handler.py is not `serving/handler.py` as it is now."""
    OLD_SIGNATURE = "old signature"
    """The weights are right. The signature lacks a fact about them, `rows`, or has it as it was before."""


TO_REPACK = frozenset({State.OLD_HANDLER, State.OLD_SIGNATURE})
"""What `export.repack` makes ready in a moment, without a framework."""


@dataclass(frozen=True, slots=True, order=True)
class Artifact:
    name: str
    version: int
    framework: str


@dataclass(frozen=True, slots=True)
class Store:
    """The artifacts under `root`."""

    root: Path = Path("artifacts")
    handler: Path = HANDLER

    def path(self, artifact: Artifact) -> Path:
        """The SavedModel's folder or the archive's file."""
        if artifact.framework == "tensorflow":
            return self.root / "tensorflow" / artifact.name / str(artifact.version)
        return self.root / "pytorch" / f"{artifact.name}-{artifact.version}.mar"

    def record_path(self, artifact: Artifact) -> Path:
        return self.root / "training" / f"{artifact.name}-{artifact.version}-{artifact.framework}.json"

    def signature(self, artifact: Artifact) -> dict[str, Any] | None:
        """The signature that the artifact carries; None where there is no whole artifact."""
        path = self.path(artifact)
        if artifact.framework == "tensorflow":
            is_whole = any((path / graph).is_file() for graph in GRAPHS)
            return read_json(path / SIGNATURE_IN_SAVED_MODEL) if is_whole else None
        text = read_member(path, DESCRIPTION_IN_ARCHIVE) or read_member(path, SIGNATURE_IN_ARCHIVE)
        return None if text is None else parse_object(text)

    def record(self, artifact: Artifact) -> dict[str, Any] | None:
        return read_json(self.record_path(artifact))

    def state(self, artifact: Artifact) -> State:
        signature, record = self.signature(artifact), self.record(artifact)
        if signature is None or record is None:
            return State.MISSING
        fingerprint = str(signature.get("fingerprint"))
        renewed = self.renewed(artifact)
        if renewed != CATALOG[artifact.name].signature(artifact.version, fingerprint):
            return State.OUTDATED
        if fingerprint != record.get("fingerprint"):
            return State.OUTDATED
        if artifact.version == TRANSPLANTED and not self._is_of_native_pytorch(artifact.name, fingerprint):
            return State.OUTDATED
        if signature != renewed:
            return State.OLD_SIGNATURE
        if artifact.framework == "pytorch" and read_member(self.path(artifact), "handler.py") != read(self.handler):
            return State.OLD_HANDLER
        return State.READY

    def renewed(self, artifact: Artifact) -> dict[str, Any] | None:
        """The signature that the artifact would be packed with today: a documented model's `rows` are its spec's."""
        signature = self.signature(artifact)
        if signature is None or artifact.name not in CATALOG:
            return signature
        return {**signature, "rows": CATALOG[artifact.name].rows}

    def _is_of_native_pytorch(self, name: str, fingerprint: str) -> bool:
        native = self.signature(Artifact(name, NATIVE, "pytorch"))
        return native is not None and native.get("fingerprint") == fingerprint

    def missing(self, names: Collection[str] | None = None, frameworks: Iterable[str] = ()) -> list[Artifact]:
        """Which of the artifacts that the catalog asks for are not ready, all models and both frameworks by default.

        `python -m models train` makes exactly these. No `names` at all ask for nothing. Raises UnknownNameError.
        """
        specs = [] if names is not None and not names else select(names or ())
        wanted = expected(specs, select_frameworks(frameworks))
        return [artifact for artifact in wanted if self.state(artifact) is not State.READY]


def expected(specs: Iterable[ModelSpec], frameworks: Iterable[str]) -> list[Artifact]:
    kinds = list(frameworks)
    return [Artifact(spec.name, version, kind) for spec in specs for version in spec.versions for kind in kinds]


def size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_member(archive: Path, member: str) -> bytes | None:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(member)
    except (FileNotFoundError, KeyError, zipfile.BadZipFile):
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    text = read(path)
    return None if text is None else parse_object(text)


def parse_object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
