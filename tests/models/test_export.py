from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from models.artifacts import Artifact, Store
from models.export import repack, replace, staging, write_archive

REGRESSION = Artifact("linear_regression", 1, "pytorch")


def test_equal_contents_give_equal_archives(tmp_path: Path) -> None:
    """So that an archive's checksum tells whether the model changed."""
    for name in ("one.mar", "other.mar"):
        write_archive(tmp_path / name, REGRESSION, {"model.pt": b"weights", "handler.py": b"code"})
    assert (tmp_path / "one.mar").read_bytes() == (tmp_path / "other.mar").read_bytes()


def test_repacking_changes_the_handler_and_nothing_else(copied: Callable[[str], Store], tmp_path: Path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text("# tomorrow's\n")
    store = Store(copied("linear_regression").root, handler)
    with zipfile.ZipFile(store.path(REGRESSION)) as archive:
        before = {name: archive.read(name) for name in archive.namelist()}
    with staging(store.root) as folder:
        repack(store, REGRESSION, folder)
    with zipfile.ZipFile(store.path(REGRESSION)) as archive:
        after = {name: archive.read(name) for name in archive.namelist()}
    assert after == {**before, "handler.py": handler.read_bytes()}


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "fresh").touch()
    (tmp_path / "models" / "1").mkdir(parents=True)
    (tmp_path / "models" / "1" / "stale").touch()
    replace(tmp_path / "new", tmp_path / "models" / "1")
    assert [path.name for path in (tmp_path / "models" / "1").iterdir()] == ["fresh"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "models" / "1").mkdir(parents=True)
    (tmp_path / "models" / "1" / "old").touch()
    with pytest.raises(FileNotFoundError):
        replace(tmp_path / "never-written", tmp_path / "models" / "1")
    assert (tmp_path / "models" / "1" / "old").exists()


def test_staging_removes_what_a_dead_process_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".partial-{dead.pid}" / "half").mkdir(parents=True)
    living = tmp_path / f".partial-{os.getppid()}"
    living.mkdir()
    with staging(tmp_path) as folder:
        assert sorted(tmp_path.iterdir()) == sorted([living, folder])
    assert list(tmp_path.iterdir()) == [living]
