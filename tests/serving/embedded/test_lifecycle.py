"""Versions, labels and configurations come and go; swaps under load are in test_swaps.py."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server


class World:
    """A server on the models of one folder, with the default policy: the latest version."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        savedmodels.save(folder / "m" / "1", savedmodels.half_plus(1))
        self.config = folder / "models.config"
        self.config.write_text(self.configured("m"))
        flags = [
            f"--model_config_file={self.config}",
            "--file_system_poll_wait_seconds=1",
            "--model_config_file_poll_wait_seconds=1",
            "--max_num_load_retries=0",
        ]
        self.server = Server(folder, flags, command=command).ready()

    def configured(self, *names: str, extra: str = "") -> str:
        entries = "".join(
            f'config {{ name: "{name}" base_path: "{self.folder}/{name}" model_platform: "tensorflow" {extra} }}\n'
            for name in names
        )
        return f"model_config_list {{ {entries} }}"

    def states(self, name: str = "m") -> dict[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        answer = self.server.model.GetModelStatus(request, 10)
        return {
            entry.version: get_model_status_pb2.ModelVersionStatus.State.Name(entry.state)
            for entry in answer.model_version_status
        }

    def ask(self, name: str = "m", label: str = "") -> tuple[int, float]:
        """The version that answered, and y for x = 0: its offset."""
        request = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(np.float32([[0]]))})
        request.model_spec.name = name
        if label:
            request.model_spec.version_label = label
        answer = self.server.prediction.Predict(request, 10)
        return answer.model_spec.version.value, answer.outputs["y"].float_val[0]

    def reload(self, *names: str, extra: str = "") -> model_management_pb2.ReloadConfigResponse:
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(self.configured(*names, extra=extra), request.config)
        return self.server.model.HandleReloadConfigRequest(request, 30)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, command: str) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("lifecycle"), command)
    yield made
    made.server.close()


def until(fact: Callable[[], bool], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_broken_version_is_reported_and_harms_nothing(world: World) -> None:
    """The one before it goes on; mended under a new number, it serves."""
    before, _ = world.ask()
    broken = world.folder / "m" / "70"
    broken.mkdir()
    until(lambda: world.states().get(70) == "END")
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name, request.model_spec.version.value = "m", 70
    (entry,) = world.server.model.GetModelStatus(request, 10).model_version_status
    assert entry.status.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert entry.status.error_message.startswith("Could not find SavedModel .pb or .pbtxt at supplied export directory")
    time.sleep(1.5)
    assert world.ask() == (before, before)
    savedmodels.save(world.folder / "m" / "71", savedmodels.half_plus(71))
    until(lambda: world.ask() == (71, 71))


def test_a_folder_that_goes_takes_its_version_back(world: World) -> None:
    savedmodels.save(world.folder / "m" / "80", savedmodels.half_plus(80))
    until(lambda: world.ask() == (80, 80))
    shutil.rmtree(world.folder / "m" / "80")
    until(lambda: world.ask() == (71, 71))


def test_a_reload_replaces_all_models_and_back(world: World) -> None:
    savedmodels.save(world.folder / "other" / "5", savedmodels.half_plus(5))
    assert world.reload("other").status.error_code == 0
    assert world.ask("other") == (5, 5)
    until(lambda: world.states("m")[71] == "END")
    with pytest.raises(grpc.RpcError, match=r"Servable not found for request: Latest\(m\)"):
        world.ask("m")
    world.reload("m", "other")
    assert world.ask("m") == (71, 71)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "INVALID_ARGUMENT", "ServerConfig type not supported by HandleReloadConfigRequest"),
        ('model_config_list { config { name: "m" } }', "INVALID_ARGUMENT", "base_path"),
    ],
)
def test_a_bad_reload_changes_nothing(world: World, text: str, code: str, words: str) -> None:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    with pytest.raises(grpc.RpcError) as caught:
        world.server.model.HandleReloadConfigRequest(request, 10)
    assert (caught.value.code().name, words in caught.value.details()) == (code, True)
    assert world.ask("m") == (71, 71)


def test_a_label_may_only_name_a_version_that_serves(world: World) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        world.reload("m", extra='version_labels { key: "canary" value: 99 }')
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == (
        "Request to assign label to 99 of model m, which is not currently available for inference"
    )
    world.reload("m", extra='version_labels { key: "canary" value: 71 }')
    assert world.ask("m", "canary") == (71, 71)


def test_the_configuration_file_is_read_again(world: World) -> None:
    savedmodels.save(world.folder / "third" / "3", savedmodels.half_plus(3))
    world.config.write_text(world.configured("m", "third"))
    until(lambda: "third" in world.server.stdout + world.server.stderr)
    until(lambda: world.states("third") == {3: "AVAILABLE"})
    assert world.ask("third") == (3, 3)


def write_warmup(folder: Path, *requests: predict_pb2.PredictRequest) -> None:
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            record = prediction_log_pb2.PredictionLog(predict_log={"request": request})
            writer.write(record.SerializeToString())


def test_warm_up_requests_are_played_before_a_version_serves(world: World) -> None:
    """One that fails keeps its version out of service."""
    good, bad = (
        predict_pb2.PredictRequest(inputs={name: tf.make_tensor_proto(np.float32([[0]]))}) for name in ("x", "nope")
    )
    for version, request in ((90, good), (91, bad)):
        beside = savedmodels.save(world.folder / "beside" / str(version), savedmodels.half_plus(version))
        write_warmup(beside, request)
        beside.rename(world.folder / "m" / str(version))
        until(lambda version=version: world.states().get(version) in ("AVAILABLE", "END"))
    assert world.states()[91] == "END"
    assert world.ask() == (90, 90)
