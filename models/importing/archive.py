"""A TorchServe archive (`.mar`) whose handler is the user's own: published as it is, and served as `opaque`.

What such a handler takes and gives, only it knows. So nothing is asked before it is published, and the gateway passes
bodies on as they are. Source: TorchServe's model-archiver/README.md; the manifest is `MAR-INF/MANIFEST.json`.
"""

from __future__ import annotations

import json
import mimetypes
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from models.artifacts import DESCRIPTION_IN_ARCHIVE, SIGNATURE_IN_ARCHIVE, Artifact
from models.export import MANIFEST, MODULE
from models.importing.request import MODEL_NAME, ImportRefusedError, Request
from models.served import MARK, tensors

OF_TORCHSERVE = (
    "image_classifier",
    "image_segmenter",
    "object_detector",
    "text_classifier",
    "base_handler",
)
"""Handlers that an archive may name without holding them (ts/torch_handler/)."""
NEEDS_TORCHVISION = frozenset({"image_classifier", "image_segmenter", "object_detector"})


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that can be published. `notes` are for people."""

    path: Path
    manifest: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.manifest["model"].get("modelName", ""))

    @property
    def version(self) -> str:
        return str(self.manifest["model"].get("modelVersion", "1.0"))


def opened(request: Request) -> Archive:
    """Raises ImportRefusedError for what TorchServe could not load."""
    try:
        with zipfile.ZipFile(request.path) as archive:
            members = set(archive.namelist())
            manifest = json.loads(archive.read(MANIFEST))
            broken = archive.testzip()
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ImportRefusedError(
            f"{request.source} is no TorchServe archive ({error}); make one with torch-model-archiver"
        ) from error
    if broken:
        raise ImportRefusedError(f"{request.source} is damaged: {broken} cannot be read")
    model = manifest.get("model") if isinstance(manifest, dict) else None
    if not isinstance(model, dict) or not model.get("handler"):
        raise ImportRefusedError(f"{request.source}: {MANIFEST} names no handler; make it with --handler FILE")
    return Archive(request.path, manifest, tuple(notes(model, members, request)))


def notes(model: dict[str, Any], members: set[str], request: Request) -> list[str]:
    """What may keep it from being served. Raises ImportRefusedError for what will."""
    handler = str(model["handler"]).partition(":")[0]
    found = ["its handler is its own: it is loaded at the next start, and bodies go to it as they are (opaque)"]
    if handler not in OF_TORCHSERVE and not {handler, f"{handler}.py"} & members:
        raise ImportRefusedError(
            f"{request.source} does not hold its handler {handler}; TorchServe's own are {', '.join(OF_TORCHSERVE)}"
        )
    if handler in NEEDS_TORCHVISION:
        found.append(f"TorchServe's {handler} needs torchvision in this environment")
    serialized = model.get("serializedFile")
    if serialized and serialized not in members:
        raise ImportRefusedError(f"{request.source} does not hold {serialized}, which its manifest names")
    if model.get("requirementsFile") or "requirements.txt" in members:
        found.append("its requirements.txt is not installed by the server: install it into this environment")
    return found


def is_of_duet(request: Request) -> bool:
    """Whether the archive is one of ours: then its signature is known, and it is imported by its TorchScript file."""
    try:
        with zipfile.ZipFile(request.path) as archive:
            return SIGNATURE_IN_ARCHIVE in archive.namelist() and b"TensorHandler" in archive.read("handler.py")
    except (zipfile.BadZipFile, KeyError, OSError):
        return False


def refuse_flags(request: Request) -> None:
    given = {
        "--input": request.inputs,
        "--output": request.outputs,
        "--signature": request.signature,
        "--weights": request.weights,
        "--rows": request.rows,
    }
    if wrong := [flag for flag, value in given.items() if value]:
        raise ImportRefusedError(
            f"{', '.join(wrong)}: an archive's own handler has no tensors that could be named; leave it out"
        )


def unpacked(request: Request, folder: Path) -> Request:
    """The request for the TorchScript file of one of our archives, with the inputs and outputs that it tells."""
    with zipfile.ZipFile(request.path) as archive:
        path = Path(archive.extract(MODULE, folder)).rename(folder / f"{request.path.stem}.pt")
        signature = json.loads(archive.read(SIGNATURE_IN_ARCHIVE))
    name, version = name_and_version(request, opened(request))
    return replace(
        request,
        source=str(path),
        name=name,
        version=version,
        inputs=request.inputs or tensors(signature["inputs"]),
        outputs=request.outputs or tuple(one["name"] for one in signature["outputs"]),
        description=request.description or f"imported from {request.path.name}",
    )


def name_and_version(request: Request, archive: Archive) -> tuple[str, int]:
    """As asked, else as the manifest says; "2.0" is 2. Raises ImportRefusedError."""
    name = request.name or re.sub(r"[^A-Za-z0-9_.-]+", "_", archive.name or request.path.stem).strip("_.-")
    if not MODEL_NAME.fullmatch(name):
        raise ImportRefusedError(f"{request.source} gives no usable name; give one with --name NAME")
    if request.version:
        return name, request.version
    whole, _, fraction = archive.version.partition(".")
    if not whole.isdecimal() or fraction.strip("0") or not int(whole):
        raise ImportRefusedError(
            f"{request.source} is version {archive.version!r}; Duet's are whole numbers: give one with --version N"
        )
    return name, int(whole)


def record(description: Mapping[str, Any], artifact: Artifact, staged: Path, request: Request) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "version": artifact.version,
        "framework": artifact.framework,
        "origin": "imported",
        **description[MARK],
        "fingerprint": description["fingerprint"],
        "artifact_bytes": staged.stat().st_size,
        "content_type": content_type(request.example) if request.example else "",
    }


def packed(archive: Archive, artifact: Artifact, description: dict[str, Any], target: Path) -> None:
    """A copy under the artifact's name and version, with what we know of it beside the manifest."""
    manifest = json.loads(json.dumps(archive.manifest))
    manifest["model"] |= {"modelName": artifact.name, "modelVersion": str(artifact.version)}
    with zipfile.ZipFile(archive.path) as source, zipfile.ZipFile(target, "w") as copy:
        for member in source.infolist():
            if member.filename == MANIFEST:
                copy.writestr(member, json.dumps(manifest, indent=2))
            elif member.filename != DESCRIPTION_IN_ARCHIVE:
                with source.open(member) as reader, copy.open(member, "w") as writer:
                    while chunk := reader.read(1 << 20):
                        writer.write(chunk)
        copy.writestr(DESCRIPTION_IN_ARCHIVE, json.dumps(description, indent=1))


def fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def content_type(path: Path) -> str:
    """As TorchServe's clients send it: JSON is named, since TorchServe decodes it; other bytes go without a type."""
    return "application/json" if mimetypes.guess_type(path.name)[0] == "application/json" else ""
