"""The TensorFlow server's configuration file changes under it and under the gateway: models, and labels of versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from gateway.protos import tfserving_pb2 as pb
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for
from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server, config_text


@dataclass
class World:
    store: Path
    config: Path
    gateway: RunningGateway

    def configure(self, *models: str, **labels: int) -> None:
        text = config_text(dict.fromkeys(models, self.store / "half") | {"text": self.store / "text"})
        entries = " ".join(f'version_labels {{ key: "{label}" value: {number} }}' for label, number in labels.items())
        beside = self.config.with_suffix(".new")
        beside.write_text(text.replace('/half" ', f'/half" {entries} '))
        beside.rename(self.config)

    def predict(self, model: str, label: str = "") -> httpx.Response:
        path = f"/v1/models/{model}" + (f"/labels/{label}" if label else "")
        return self.gateway.client.post(f"{path}:predict", json={"inputs": [[2.0]]})

    def answers(self, model: str, label: str = "") -> object:
        answer = self.predict(model, label)
        return answer.json()["outputs"] if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """`half` in versions 1 and 2, which give 3 and 4 for 2."""
    folder = tmp_path_factory.mktemp("labels")
    store, config = folder / "store", folder / "models.config"
    for version in (1, 2):
        savedmodels.save(store / "half" / str(version), savedmodels.half_plus(version + 1))
    savedmodels.save(store / "text" / "1", savedmodels.text)
    config.write_text(config_text({name: store / name for name in ("half", "text")}))
    flags = [f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1"]
    flags += ["--file_system_poll_wait_seconds=1", "--allow_version_labels_for_unavailable_models=true"]
    server = Server(folder, flags)
    gateway = None
    try:
        server.ready()
        entry = {"kind": "tfserving", "endpoint": f"127.0.0.1:{server.port}", "model_config_file": str(config)}
        gateway = start_gateway({"servers": {"tensorflow": entry}, "refresh_seconds": 1.0}, folder)
        gateway.wait_until("/v2/models/half/ready", 200)
        yield World(store, config, gateway)
    finally:
        if gateway is not None:
            assert gateway.stop() == 0
        server.close()


def test_a_label_names_the_version_that_the_server_gives_it(world: World) -> None:
    world.configure("half", stable=1, canary=2)
    wait_for(lambda: world.answers("half", "canary") is not None, "the labels")
    assert (world.answers("half", "stable"), world.answers("half", "canary")) == ([[3.0]], [[4.0]])


def test_a_label_that_moves_is_followed(world: World) -> None:
    world.configure("half", stable=1)
    wait_for(lambda: world.answers("half", "stable") == [[3.0]], "stable to be version 1")
    world.configure("half", stable=2)
    wait_for(lambda: world.answers("half", "stable") == [[4.0]], "stable to be version 2", seconds=8)


def test_over_grpc_too(world: World) -> None:
    world.configure("half", stable=1)
    wait_for(lambda: world.answers("half", "stable") == [[3.0]], "stable to be version 1", seconds=8)
    spec = pb.ModelSpec(name="half", version_label="stable")
    request = pb.PredictRequest(model_spec=spec)
    request.inputs["x"].dtype = pb.DT_FLOAT
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].float_val.append(2)
    with grpc.insecure_channel(f"127.0.0.1:{world.gateway.grpc_port}") as channel:
        service = "/tensorflow.serving.PredictionService/"
        predict = channel.unary_unary(
            service + "Predict", pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString
        )
        answer = predict(request)
        assert (answer.model_spec.version.value, list(answer.outputs["y"].float_val)) == (1, [3.0])
        describe = channel.unary_unary(
            service + "GetModelMetadata",
            pb.GetModelMetadataRequest.SerializeToString,
            pb.GetModelMetadataResponse.FromString,
        )
        told = describe(pb.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"]))
        assert told.model_spec.version.value == 1


@pytest.mark.parametrize(("model", "label"), [("half", "nope"), ("half", "lost"), ("nobody", "stable")])
def test_a_label_that_stands_for_nothing_is_refused_in_tensorflow_servings_words(
    world: World, model: str, label: str
) -> None:
    """Also one that the file gives to a version that is not there."""
    world.configure("half", stable=1, lost=9)
    wait_for(lambda: world.answers("half", "stable") == [[3.0]], "stable to be version 1", seconds=8)
    answer = world.predict(model, label)
    assert answer.status_code == 400
    assert answer.json() == {"error": f"Unrecognized servable version label: {label}"}


def test_a_status_ignores_the_label_and_metadata_follows_it(world: World) -> None:
    world.configure("half", stable=1)
    wait_for(lambda: world.answers("half", "stable") == [[3.0]], "stable to be version 1", seconds=8)
    client = world.gateway.client
    status = client.get("/v1/models/half/labels/stable").json()["model_version_status"]
    assert [entry["version"] for entry in status] == ["2", "1"]
    assert client.get("/v1/models/half/labels/stable/metadata").json()["model_spec"]["version"] == "1"


def test_a_tensor_of_free_rank_is_told_as_such_and_takes_any_shape(world: World) -> None:
    """TensorFlow's own dialect has a word for it; the Open Inference Protocol has one free dimension at most."""
    client = world.gateway.client
    world.gateway.wait_until("/v2/models/text/ready", 200)
    document = client.get("/v1/models/text/metadata").json()["metadata"]["signature_def"]["signature_def"]
    shape = document["serving_default"]["inputs"]["s"]["tensor_shape"]
    assert shape == {"dim": [], "unknown_rank": True}
    assert client.get("/v2/models/text").json()["inputs"] == [{"name": "s", "datatype": "BYTES", "shape": [-1]}]
    for value in ("a", ["a"], [["a", "b"], ["c", "d"]]):
        answer = client.post("/v1/models/text:predict", json={"inputs": value, "signature_name": "plain"})
        assert answer.json() == {"outputs": value}
    body = {"inputs": [{"name": "s", "datatype": "BYTES", "shape": [1, 1, 2], "data": ["a", "b"]}]}
    outputs = client.post("/v2/models/text/infer", json=body).json()["outputs"]
    assert [output["shape"] for output in outputs] == [[1, 1, 2], [1, 1, 2]]
    nested = client.post("/predictions/text", json=[["a"], ["b"]]).json()
    assert nested == {"s": [["a"], ["b"]], "s_bytes": [["a"], ["b"]]}


def test_a_model_that_joins_or_leaves_the_file_appears_or_disappears_within_five_seconds(world: World) -> None:
    """Of which the server takes up to one to read its file again."""
    client = world.gateway.client
    world.configure("half", "second")
    wait_for(lambda: world.answers("second") == [[4.0]], "second to serve", seconds=5)
    world.configure("half")
    wait_for(lambda: client.get("/v2/models/second").status_code == 404, "second to be gone", seconds=5)
    assert world.predict("second").status_code == 404
    assert world.answers("half") == [[4.0]]
