"""An import from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from models import export
from models.artifacts import Artifact, Store, size_bytes
from models.catalog import CATALOG
from models.frameworks import load
from models.importing import archive as archives
from models.importing import candidate, examples, sizes
from models.importing.candidate import Candidate, Trial
from models.importing.independence.conclude import conclude
from models.importing.independence.finding import Finding
from models.importing.request import ImportRefusedError, Request, is_import_path, name_and_version
from models.served import MARK, artifacts, payload_path, record_path, tensors
from models.spec import Array, TensorSpec

Maker = Callable[[Request, Mapping[str, Array], Path], Candidate]
LARGEST_EXAMPLE_VALUES = 10_000
LARGEST_EXAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Delivery:
    """What was published, what calling it has shown, and what is known of its rows: None where it takes no tensors."""

    artifact: Artifact
    path: Path
    inputs: tuple[TensorSpec, ...]
    trial: Trial
    finding: Finding | None = None


def deliver(store: Store, request: Request) -> Delivery:
    """Raises ImportRefusedError, NotInstalledError, OSError; nothing has changed then."""
    if not is_import_path(request.source) and request.path.is_file() and request.path.suffix == ".mar":
        return deliver_archive(store, request)
    name, version = name_and_version(request)
    framework, make = kind_of(request)
    artifact = Artifact(name, version, framework)
    check_free(store, artifact, force=request.force)
    given = examples.read(request.example) if request.example else {}
    with export.staging(store.root) as folder:
        found = make(request, given, folder)
        one = sizes.answerable(found.inputs, examples.rows(found.inputs, given, str(request.example)), found.predict)
        trial = candidate.attempt(found, one, is_blank=not given)
        check_twin(store, artifact, found.inputs, trial.outputs)
        found.settle(trial.outputs)
        finding = conclude(found, trial.outputs, one, request.rows, lambda: analysis(found))
        signature = describe(request, artifact, found, trial, finding)
        staged = export.finish(store, artifact, found.saved, signature)
        beside = folder / "record.json"
        beside.write_bytes(export.as_json(record(signature, artifact, staged, one)))
        export.replace(beside, record_path(store, artifact))
        export.replace(staged, store.path(artifact))
    return Delivery(artifact, store.path(artifact), found.inputs, trial, finding)


def deliver_archive(store: Store, request: Request) -> Delivery:
    """An archive of our own by its TorchScript file; one with a handler of the user's own as it is.

    Raises as `deliver` does.
    """
    if archives.is_of_duet(request):
        with TemporaryDirectory() as folder:
            return deliver(store, archives.unpacked(request, Path(folder)))
    archives.refuse_flags(request)
    found = archives.opened(request)
    name, version = archives.name_and_version(request, found)
    artifact = Artifact(name, version, "pytorch")
    check_free(store, artifact, force=request.force)
    check_opaque(store, artifact)
    description: dict[str, Any] = {
        "name": name,
        "version": version,
        "description": request.description or f"imported from {shown_source(request)}",
        "opaque": True,
        "inputs": [],
        "outputs": [],
        "fingerprint": archives.fingerprint(request.path),
        MARK: {"source": shown_source(request)},
    }
    with export.staging(store.root) as folder:
        staged = folder / store.path(artifact).name
        archives.packed(found, artifact, description, staged)
        body = payload_path(store, artifact)
        if request.example:
            sample = folder / "sample"
            sample.write_bytes(examples.read_bytes(request.example))
            export.replace(sample, body)
        else:
            body.unlink(missing_ok=True)
        beside = folder / "record.json"
        beside.write_bytes(export.as_json(archives.record(description, artifact, staged, request)))
        export.replace(beside, record_path(store, artifact))
        export.replace(staged, store.path(artifact))
    return Delivery(artifact, store.path(artifact), (), Trial((), 0.0, found.notes))


def check_opaque(store: Store, artifact: Artifact) -> None:
    """A model is opaque as a whole: its versions are called alike, and it has no twin. Raises ImportRefusedError."""
    for other in artifacts(store.root):
        signature = store.signature(other) if other.name == artifact.name and other != artifact else None
        if signature is not None and not signature.get("opaque"):
            raise ImportRefusedError(
                f"{other.name} {other.version} ({other.framework}) takes tensors, and an archive with a handler of its "
                "own takes bodies; give it another name with --name NAME"
            )


def kind_of(request: Request) -> tuple[str, Maker]:
    """Raises ImportRefusedError, NotInstalledError."""
    if is_import_path(request.source):
        return "pytorch", pytorch("from_module")
    if not request.path.exists():
        raise ImportRefusedError(f"there is no {request.source}; give a file, a folder, or PACKAGE.MODULE:FACTORY")
    if request.path.is_dir():
        return "tensorflow", tensorflow("from_folder")
    if request.path.suffix in (".keras", ".h5"):
        return "tensorflow", tensorflow("from_keras")
    if request.path.suffix == ".tflite":
        return "tensorflow", lite()
    if request.path.suffix in (".pt", ".pth", ".ts", ".jit", ".torchscript"):
        return "pytorch", pytorch("from_file")
    raise ImportRefusedError(
        f"{request.source} is neither a SavedModel's folder, nor a .keras, .tflite or TorchScript file (.pt), nor a "
        "TorchServe archive (.mar), nor a PACKAGE.MODULE:FACTORY"
    )


def pytorch(maker: str) -> Maker:
    load("pytorch")  # says how to install it where it is not there
    from models.importing import torchscript

    made: Maker = getattr(torchscript, maker)
    return made


def tensorflow(maker: str) -> Maker:
    load("tensorflow")
    from models.importing import savedmodel

    made: Maker = getattr(savedmodel, maker)
    return made


def lite() -> Maker:
    load("tensorflow")
    from models.importing import lite

    return lite.from_file


def analysis(found: Candidate) -> Finding:
    """What the graph of what was saved tells of its rows."""
    if found.framework == "tensorflow":
        if not (found.saved / "saved_model.pb").is_file():
            return Finding("unknown", "only the graphs of SavedModels and TorchScript are analysed")
        from models.importing.independence import tf_graph
        from models.importing.savedmodel import SERVED_SIGNATURE

        return tf_graph.analyse(found.saved, SERVED_SIGNATURE)
    from models.importing import torchscript
    from models.importing.independence import torch_graph

    return torch_graph.analyse(torchscript.load(found.saved), found.inputs)


def check_free(store: Store, artifact: Artifact, *, force: bool) -> None:
    if artifact.name in CATALOG:
        raise ImportRefusedError(f"{artifact.name} is a documented model; give yours another name with --name NAME")
    if store.path(artifact).exists() and not force:
        raise ImportRefusedError(
            f"{store.path(artifact)} is there already; give --force to replace it, or --version N to add one"
        )


def check_twin(store: Store, artifact: Artifact, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Both variants of a version answer the same requests, or a client could not be moved between them."""
    other = Artifact(artifact.name, artifact.version, "pytorch" if artifact.framework == "tensorflow" else "tensorflow")
    signature = store.signature(other)
    if signature is None:
        return
    if signature.get("opaque"):
        raise ImportRefusedError(
            f"{other.name} {other.version} is an archive with a handler of its own; give this one another name with "
            "--name NAME"
        )
    for side, mine in (("inputs", inputs), ("outputs", outputs)):
        theirs = sorted(f"{one['name']}:{one['datatype']}:{len(one['shape'])}" for one in signature[side])
        if sorted(f"{one.name}:{one.datatype}:{len(one.shape)}" for one in mine) != theirs:
            shown = " ".join(
                f"{one['name']}:{one['datatype']}:{','.join(map(str, one['shape']))}" for one in signature[side]
            )
            raise ImportRefusedError(
                f"{other.name} {other.version} is there in {other.framework} with the {side} {shown}; both must be "
                "alike: give --input and --output to match, or another --name"
            )


def describe(request: Request, artifact: Artifact, found: Candidate, trial: Trial, finding: Finding) -> dict[str, Any]:
    """signature.json, with the mark that makes an artifact an imported one."""
    return {
        "name": artifact.name,
        "version": artifact.version,
        "description": request.description or f"imported from {shown_source(request)}",
        "inputs": [spec.as_json() for spec in found.inputs],
        "outputs": [spec.as_json() for spec in trial.outputs],
        "rows": finding.rows,
        "rows_reason": finding.reason,
        "fingerprint": fingerprint(found.saved),
        **found.extra,
        MARK: {"source": shown_source(request)},
    }


def shown_source(request: Request) -> str:
    """Not the whole path, which says more about the machine than about the model."""
    if is_import_path(request.source):
        return request.source
    path = request.path.absolute()
    return f"{path.parent.name}/{path.name}" if path.name.isdecimal() else path.name


def fingerprint(saved: Path) -> str:
    """sha256 over what the framework loads: each file's path in the SavedModel and its bytes, or the file's bytes."""
    digest = sha256()
    files = sorted(path for path in saved.rglob("*") if path.is_file()) if saved.is_dir() else [saved]
    for file in files:
        content = file.read_bytes()
        if saved.is_dir():
            digest.update(f"{file.relative_to(saved).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return f"sha256:{digest.hexdigest()}"


def record(signature: Mapping[str, Any], artifact: Artifact, staged: Path, one: tuple[Array, ...]) -> dict[str, Any]:
    text_bytes = sum(len(text) for array in one if array.dtype == object for text in array.ravel())
    small = sum(array.size for array in one) <= LARGEST_EXAMPLE_VALUES and text_bytes <= LARGEST_EXAMPLE_BYTES
    return {
        "name": artifact.name,
        "version": artifact.version,
        "framework": artifact.framework,
        "origin": "imported",
        **signature[MARK],
        "fingerprint": signature["fingerprint"],
        "artifact_bytes": size_bytes(staged),
        "example": examples.as_lists(tensors(signature["inputs"]), one) if small else None,
        "libraries": load(artifact.framework).libraries(),
    }
