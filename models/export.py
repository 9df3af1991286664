"""From a twin to an artifact that its server loads: written beside, tried, then renamed into place.

Archives are written here and not by torch-model-archiver: its API stages in `<temporary folder>/<model name>`, which it
deletes first whatever it holds, and stamps the time into the file, so equal contents give different archives.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from models.artifacts import SIGNATURE_IN_ARCHIVE, SIGNATURE_IN_SAVED_MODEL, Artifact, Store

PARTIAL = ".partial-"
MODULE = "model.pt"
HANDLER = "handler.py"
MANIFEST = "MAR-INF/MANIFEST.json"
OLDEST_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
REGULAR_FILE = 0o100644 << 16


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A folder on the artifacts' own file system, out of the servers' sight, gone afterwards. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(f"{PARTIAL}*"):
        if not in_use(leftover):
            shutil.rmtree(leftover)
    folder = root / f"{PARTIAL}{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_use(folder: Path) -> bool:
    owner = folder.name.removeprefix(PARTIAL)
    return owner.isdigit() and int(owner) != os.getpid() and psutil.pid_exists(int(owner))


def finish(store: Store, artifact: Artifact, saved: Path, signature: Mapping[str, Any]) -> Path:
    """The whole artifact, from what the framework `saved`: a SavedModel folder or a TorchScript file."""
    text = as_json(signature)
    if artifact.framework == "tensorflow":
        extra = saved / SIGNATURE_IN_SAVED_MODEL
        extra.parent.mkdir(exist_ok=True)
        extra.write_bytes(text)
        return saved
    archive = saved.with_suffix(".mar")
    members = {MODULE: saved.read_bytes(), HANDLER: store.handler.read_bytes(), SIGNATURE_IN_ARCHIVE: text}
    write_archive(archive, artifact, members)
    return archive


def write_archive(path: Path, artifact: Artifact, members: Mapping[str, bytes]) -> None:
    """A TorchServe archive whose bytes depend on nothing but its contents. Not compressed: weights do not shrink."""
    model = {
        "modelName": artifact.name,
        "serializedFile": MODULE,
        "handler": HANDLER,
        "modelVersion": str(artifact.version),
    }
    manifest = {MANIFEST: as_json({"runtime": "python", "model": model})}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (manifest | dict(members)).items():
            entry = zipfile.ZipInfo(name, OLDEST_ZIP_TIME)
            entry.external_attr = REGULAR_FILE
            archive.writestr(entry, content)


def repack(store: Store, artifact: Artifact, folder: Path) -> None:
    """Give an artifact today's handler and signature, its model untouched. `folder` is the staging folder.

    Raises OSError; the artifact is then as it was.
    """
    target, text = store.path(artifact), as_json(store.renewed(artifact) or {})
    if artifact.framework == "tensorflow":
        staged = folder / "signature.json"
        staged.write_bytes(text)
        replace(staged, target / SIGNATURE_IN_SAVED_MODEL)
        return
    with zipfile.ZipFile(target) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != MANIFEST}
    staged = folder / target.name
    write_archive(staged, artifact, {**members, HANDLER: store.handler.read_bytes(), SIGNATURE_IN_ARCHIVE: text})
    replace(staged, target)


def publish(store: Store, artifact: Artifact, staged: Path, record: Mapping[str, Any]) -> None:
    """Rename into place: the artifact, then its record. After a crash in between, the artifact counts as outdated."""
    replace(staged, store.path(artifact))
    beside = staged.parent / "record.json"
    beside.write_bytes(as_json(record))
    replace(beside, store.record_path(artifact))


def replace(new: Path, target: Path) -> None:
    """Put `new` where `target` is or was: a file in one step; a folder in two, the old one put back on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_dir():
        new.replace(target)
        return
    aside = new.parent / "replaced"
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def framework_file(store: Store, artifact: Artifact, folder: Path) -> Path:
    """What the framework itself loads: the SavedModel where it lies, or the TorchScript unpacked into `folder`."""
    path = store.path(artifact)
    if artifact.framework == "tensorflow":
        return path
    with zipfile.ZipFile(path) as archive:
        return Path(archive.extract(MODULE, folder))


def as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
