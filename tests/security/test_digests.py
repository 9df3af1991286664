"""Only artifacts that somebody has allowed are loaded, and exactly as they were when they were checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.digests import allowed_copy, digest, listing
from serving.failures import Failure


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "artifacts"
    for version in ("1", "2"):
        folder = root / "tensorflow" / "m" / version
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"model " + version.encode())
        (folder / "variables" / "a b.data").write_bytes(b"\x00" * 10)
    (root / "pytorch").mkdir()
    (root / "pytorch" / "m-1.mar").write_bytes(b"archive")
    (root / "pytorch" / "other-1.mar").write_bytes(b"another archive")
    return root


@pytest.fixture
def allow_list(root: Path, tmp_path: Path) -> Path:
    path = tmp_path / "allowed"
    path.write_text("# made by hand\n\n" + "\n".join(listing(root)) + "\n")
    return path


def test_a_digest_is_what_the_usual_tools_say(root: Path) -> None:
    folder = root / "tensorflow" / "m" / "1"
    script = "find . -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    told = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert digest(folder) == told.split()[0]
    told = subprocess.run(
        ["sha256sum", root / "pytorch" / "m-1.mar"], capture_output=True, text=True, check=True
    ).stdout
    assert digest(root / "pytorch" / "m-1.mar") == told.split()[0]


def test_what_is_allowed_is_loaded_from_a_copy(root: Path, allow_list: Path, tmp_path: Path) -> None:
    """Of the models that are asked for, and of nothing else; what comes later to the folder is not in it."""
    copy = allowed_copy(root, ["m"], allow_list=allow_list, target=tmp_path / "copy")
    assert sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()) == [
        "pytorch/m-1.mar",
        "tensorflow/m/1/saved_model.pb",
        "tensorflow/m/1/variables/a b.data",
        "tensorflow/m/2/saved_model.pb",
        "tensorflow/m/2/variables/a b.data",
    ]
    assert sorted(listing(copy)) == sorted(line for line in listing(root) if "other" not in line)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "pytorch" / "m-1.mar").write_bytes(b"archive."),
        lambda root: (root / "pytorch" / "m-2.mar").write_bytes(b"new"),
        lambda root: (root / "tensorflow" / "m" / "1" / "saved_model.pb").write_bytes(b"other"),
        lambda root: (root / "tensorflow" / "m" / "1" / "more.py").write_bytes(b""),
        lambda root: (root / "tensorflow" / "m" / "1" / "variables" / "a b.data").rename(root / "tensorflow/m/1/moved"),
        lambda root: (root / "tensorflow" / "m" / "3").mkdir(),
        lambda root: (root / "tensorflow" / "m" / "1" / "link").symlink_to("/etc/hostname"),
        lambda root: (root / "pytorch" / "m-3.mar").symlink_to(root / "pytorch" / "m-1.mar"),
    ],
    ids=[
        "archive changed",
        "archive added",
        "file changed",
        "file added",
        "moved",
        "version",
        "link",
        "linked archive",
    ],
)
def test_what_was_changed_after_it_was_allowed_is_not_loaded(
    root: Path, allow_list: Path, tmp_path: Path, change: object
) -> None:
    change(root)  # type: ignore[operator]
    with pytest.raises(Failure, match=r"is not allowed|is a link"):
        allowed_copy(root, ["m"], allow_list=allow_list, target=tmp_path / "copy")


def test_a_list_that_cannot_be_read_lets_nothing_through(root: Path, tmp_path: Path) -> None:
    for content, says in (("abc\n", "line 1: no digest"), ("", "is not allowed")):
        path = tmp_path / "list"
        path.write_text(content)
        with pytest.raises(Failure, match=says):
            allowed_copy(root, ["m"], allow_list=path, target=tmp_path / "copy")
    with pytest.raises(Failure, match="No such file"):
        allowed_copy(root, ["m"], allow_list=tmp_path / "none", target=tmp_path / "copy")


def test_the_command_prints_the_list(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "digests", str(root)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == list(listing(root))
