"""`python -m models`, mostly as a process of its own: exit codes, sentences, and what it leaves on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from models.__main__ import main
from models.artifacts import Artifact, Store
from models.catalog import CATALOG

COMMAND = [sys.executable, "-m", "models"]


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_list_shows_models_and_what_is_there(
    copied: Callable[[str], Store], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--out", str(copied("linear_regression").root)]) == 0
    shown = capsys.readouterr().out
    assert "linear_regression" in shown
    assert "1 ready" in shown
    assert "1 missing" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet"], f"no model named resnet; there are {', '.join(CATALOG)}"),
        (["--framework", "jax"], "no framework named jax; there are tensorflow, pytorch"),
        (["convnet", "--dataset", "cifar"], "no dataset cifar for this; there are convnet: digits, mnist"),
    ],
)
def test_an_unknown_name_is_one_line_that_names_the_known_ones(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"models: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--epochs", "0"], ["--epochs", "two"], ["--seed", "-1"]], ids=" ".join)
def test_a_number_that_is_none_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["train", *option])
    assert exit_.value.code == 2
    assert "must be a whole number from" in capsys.readouterr().err


def test_training_again_does_nothing(copied: Callable[[str], Store], capsys: pytest.CaptureFixture[str]) -> None:
    store = copied("dense_classifier")
    before = digest(store.root)
    assert main(["train", "dense_classifier", "--out", str(store.root)]) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert digest(store.root) == before


def test_other_settings_replace_artifact_and_record_and_say_that_the_bar_is_missed(
    copied: Callable[[str], Store], capsys: pytest.CaptureFixture[str]
) -> None:
    store = copied("dense_classifier")
    assert main(["train", "dense_classifier", "--epochs", "1", "--seed", "4", "--out", str(store.root)]) == 0
    for framework in ("tensorflow", "pytorch"):
        record = store.record(Artifact("dense_classifier", 2, framework)) or {}
        assert (record["epochs"], record["seed"]) == (1, 4)
    assert "below the bar of 0.95" in capsys.readouterr().out
    assert Artifact("dense_classifier", 2, "tensorflow") not in store.missing()


@pytest.mark.parametrize("framework", ["tensorflow", pytest.param("pytorch", marks=pytest.mark.full)])
def test_no_space_leaves_the_old_artifact_and_says_so_in_one_line(
    copied: Callable[[str], Store], framework: str
) -> None:
    """The space is a limit of the process on the size of its files, below the weights of this model."""
    store = copied("dense_classifier")
    before = digest(store.root)
    code = (
        "import resource, sys; from models.__main__ import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); sys.exit(main(sys.argv[1:]))"
    )
    command = ["train", "dense_classifier", "--framework", framework, "--epochs", "1", "--out", str(store.root)]
    answer = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith(f"models: could not write to {store.root}")
    assert answer.stderr.endswith("What was there before is untouched.\n")
    assert digest(store.root) == before


def test_an_interrupt_leaves_nothing_half_written(copied: Callable[[str], Store]) -> None:
    store = copied("dense_classifier")
    before = digest(store.root)
    arguments = ["train", "dense_classifier", "--framework", "pytorch", "--epochs", "100000", "--out", str(store.root)]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background ignores SIGINT, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            time.sleep(5)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    # A shell shows both as 130: CPython ends by the signal where it met the exec() of a string, as in torch's import,
    # also if the interrupt was caught.
    assert process.returncode in (130, -signal.SIGINT)
    assert said == "models: interrupted. What was finished is kept; run it again to continue.\n"
    assert digest(store.root) == before


def test_without_a_network_mnist_names_the_data_that_needs_none(tmp_path: Path) -> None:
    """The network is taken away by a proxy on a port where nothing listens."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path)}
    answer = subprocess.run(
        [*COMMAND, "train", "convnet", "--dataset", "mnist", "--out", str(tmp_path / "artifacts")],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr.startswith("models: MNIST could not be fetched (")
    assert answer.stderr.endswith("Train on the digits that need no network: --dataset digits\n")
    assert not (tmp_path / "artifacts").exists()


def test_one_framework_at_a_time_ends_where_both_at_once_do(trained: Store, tmp_path: Path) -> None:
    """TensorFlow first has to do without version 2, and gets it when PyTorch's version 1 is there."""
    out = ["linear_regression", "--out", str(tmp_path)]
    assert main(["train", "--framework", "tensorflow", *out]) == 0
    assert not (tmp_path / "tensorflow" / "linear_regression" / "2").exists()
    assert main(["train", "--framework", "pytorch", *out]) == 0
    assert main(["train", "--framework", "tensorflow", *out]) == 0
    assert Store(tmp_path).missing(["linear_regression"]) == []
    for version in (1, 2):
        for framework in ("tensorflow", "pytorch"):
            artifact = Artifact("linear_regression", version, framework)
            assert Store(tmp_path).signature(artifact) == trained.signature(artifact)


def test_a_framework_that_is_not_installed_says_how_to_get_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from models.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = ["train", "linear_regression", "--framework", "pytorch", "--out", str(tmp_path)]
    answer = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.startswith("models: ")
    assert answer.stderr.endswith("install it with: pip install 'duet-serving[local]'\n")
    assert answer.stderr.count("\n") == 1
