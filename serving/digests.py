"""Which artifacts may be loaded: a list of SHA-256 digests. Both kinds run code: archives hold Python, SavedModels ops.

The list is what `sha256sum` writes, one line an artifact: the digest, two spaces, a name for people. An archive's
digest is its file's; a SavedModel's is of the listing of its files, as this prints it in the version's folder::

    find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving.failures import Failure

_LINE = re.compile(r"([0-9a-f]{64})( [ *].*)?")


def digest(artifact: Path) -> str:
    """Of a file or a folder, as hexadecimal text. Raises Failure for a link, which may lead anywhere."""
    if artifact.is_symlink():
        raise Failure(f"{artifact} is a link; allow-listed artifacts must be files of their own")
    if artifact.is_file():
        with artifact.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = []
    for path in artifact.rglob("*"):
        if path.is_symlink():
            raise Failure(f"{path} is a link; allow-listed artifacts must be files of their own")
        if path.is_file():
            lines.append((f"./{path.relative_to(artifact).as_posix()}".encode(), digest(path).encode()))
    listing = b"".join(b"%s  %s\n" % (hashed, name) for name, hashed in sorted(lines))
    return hashlib.sha256(listing).hexdigest()


def artifacts(root: Path, models: Sequence[str] = ()) -> Iterator[Path]:
    """Every version of these models, or of all, in the folder of artifacts."""
    for path in sorted((root / "tensorflow").glob("*/*")):
        if path.name.isdigit() and (not models or path.parent.name in models):
            yield path
    for path in sorted((root / "pytorch").glob("*.mar")):
        if not models or path.stem.rpartition("-")[0] in models:
            yield path


def listing(root: Path) -> Iterator[str]:
    """The allow-list that lets through what is there now."""
    for path in artifacts(root):
        yield f"{digest(path)}  {path.relative_to(root).as_posix()}"


def allowed_copy(root: Path, models: Sequence[str], *, allow_list: Path, target: Path) -> Path:
    """Copies the models' artifacts to ``target`` and checks the copies, which are what is then loaded.

    So nothing can change between the check and the load, and no version can come later. Raises Failure.
    """
    known = _read(allow_list)
    shutil.rmtree(target, ignore_errors=True)
    for path in artifacts(root, models):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, copy, symlinks=True)
        else:
            shutil.copy2(path, copy, follow_symlinks=False)
        found = digest(copy)
        if found not in known:
            shutil.rmtree(target)
            raise Failure(
                f"{path} is not allowed: {allow_list} does not hold its digest {found}; if you know where the artifact "
                "comes from, add the line that `python -m serving digests` prints for it"
            )
    return target


def _read(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise Failure(f"--allow-digests {path}: {error.strerror}") from error
    found = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise Failure(f"--allow-digests {path}, line {number}: no digest; write what sha256sum writes")
        found.add(match[1])
    return frozenset(found)
