from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from models.__main__ import main
from models.artifacts import Store
from models.catalog import CATALOG
from tests.models.lengths import SHORTENED

with warnings.catch_warnings():
    # torchserve's own version.py leaves a file open, and tells so when it is collected: at once, in CPython.
    warnings.simplefilter("ignore", ResourceWarning)
    import ts  # noqa: F401


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All models, both frameworks, as `python -m models train` makes them, some in fewer epochs than it takes them.

    Not to be changed: see `copied`.
    """
    root = tmp_path_factory.mktemp("artifacts")
    assert main(["train", *(set(CATALOG) - set(SHORTENED)), "--out", str(root)]) == 0
    for name, epochs in SHORTENED.items():
        assert main(["train", name, "--epochs", str(epochs), "--out", str(root)]) == 0
    return Store(root)


@pytest.fixture(scope="session")
def trained_fully(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All models as `python -m models train` makes them: minutes. For tests marked `full`."""
    root = tmp_path_factory.mktemp("artifacts-in-full")
    assert main(["train", "--out", str(root)]) == 0
    return Store(root)


@pytest.fixture
def copied(trained: Store, tmp_path: Path) -> Callable[..., Store]:
    """`copied("dense_classifier")`: the artifacts of that model alone, in a folder of the test's own."""

    def copy(name: str) -> Store:
        root = tmp_path / "artifacts"
        shutil.copytree(trained.root / "tensorflow" / name, root / "tensorflow" / name)
        for folder in ("pytorch", "training"):
            (root / folder).mkdir()
            for file in (trained.root / folder).glob(f"{name}-*"):
                shutil.copy(file, root / folder)
        return Store(root)

    return copy
