"""The command line and configuration of TensorFlow's server, real or embedded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from google.protobuf import text_format

from serving.tfserving import NoServer, TensorFlowServing, find_binary, render_models_config


def server(folder: Path, binary: Path | None = None) -> TensorFlowServing:
    return TensorFlowServing(
        port=8500, model_store=folder / "store", models=["a"], folder=folder / "run", binary=binary
    )


def program(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_all_versions_of_each_model_are_served(tmp_path: Path) -> None:
    """The text parses as a map of names to paths; a quote in a path does not end it."""
    store = tmp_path / 'st"o\\re'
    text = render_models_config(store, ["a", "b"])
    assert text.count("model_version_policy { all {} }") == 2
    assert f'base_path: "{tmp_path}/st\\"o\\\\re/b"' in text


def test_the_configuration_is_protobuf_text(tmp_path: Path) -> None:
    """Parsed with a message of the same form, since importing TF Serving's own costs four seconds."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="like_model_server_config.proto", package="like")
    add_message(file, "All")
    add_message(file, "Policy", all=".like.All")
    add_message(file, "Config", name=None, base_path=None, model_platform=None, model_version_policy=".like.Policy")
    add_message(file, "List", config=".like.Config*")
    add_message(file, "Server", model_config_list=".like.List")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("like.Server"))()
    text_format.Parse(render_models_config(tmp_path / 'é"\\\n', ["a", "b"]), message)
    configs = message.model_config_list.config
    assert [config.name for config in configs] == ["a", "b"]
    assert configs[0].base_path == str(tmp_path / 'é"\\\n' / "a")


def add_message(file: object, message_name: str, /, **fields: str | None) -> None:
    message = file.message_type.add(name=message_name)  # type: ignore[attr-defined]
    for number, (field, kind) in enumerate(fields.items(), 1):
        entry = message.field.add(name=field, number=number, type=9 if kind is None else 11)
        entry.label = 3 if kind and kind.endswith("*") else 1
        if kind:
            entry.type_name = kind.rstrip("*")


def test_without_the_real_server_the_embedded_one_runs_with_the_same_flags(tmp_path: Path) -> None:
    """The profiler is off in both: it is open to every caller of the port."""
    embedded = server(tmp_path).launch(tmp_path / "log").command
    real = server(tmp_path, Path("/bin/tensorflow_model_server")).launch(tmp_path / "log").command
    assert embedded[:3] == (sys.executable, "-m", "serving.embedded")
    assert real[0] == "/bin/tensorflow_model_server"
    assert real[1:] == embedded[3:]
    assert "--enable_profiler=false" in real
    assert "--enable_serialization_as_tensor_content=true" in embedded


def test_the_real_server_is_found_on_path_or_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None means embedded; an answer to a question that was asked must not be silently another."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary(None) is None
    on_path = program(tmp_path / "tensorflow_model_server")
    assert find_binary(None) == on_path
    assert find_binary(str(program(tmp_path / "mine"))) == tmp_path / "mine"
    with pytest.raises(NoServer, match="--tf-serving-binary /nowhere"):
        find_binary("/nowhere")
