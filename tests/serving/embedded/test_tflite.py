"""TF Lite models, with --prefer_tflite_model (servables/tensorflow/tflite_session.cc)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flatbuffers
import httpx
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from serving.embedded.errors import ServingError
from serving.embedded.tflite import LiteModel
from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server


class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * 2}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def two(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"a": x * 2, "b": x + 1}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
    def first(self, s: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"s": tf.gather(s, [0, 0])}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each function: `model.tflite` beside the SavedModel in version 1. `plain` has no TF Lite model."""
    folder, module = tmp_path_factory.mktemp("lite"), Module()
    for name in ("double", "two", "first"):
        version = folder / name / "1"
        tf.saved_model.save(module, str(version), signatures={"serving_default": getattr(module, name)})
        (version / "model.tflite").write_bytes(savedmodels.lite(version))
    savedmodels.save(folder / "plain" / "1", savedmodels.half_plus(2))
    return folder


def load(models: Path, name: str, pool: int = 1) -> LiteModel:
    return LiteModel(models / name / "1" / "model.tflite", pool=pool, threads=1)


def run(model: LiteModel, value: np.ndarray, deadline: float | None = None) -> np.ndarray:
    """By the names of its only signature's first input and output."""
    (signature,) = model.signatures.values()
    feed, fetch = (next(iter(infos.values())).name for infos in (signature.inputs, signature.outputs))
    return model.run([feed], [value], [fetch], deadline=deadline)[0]


def test_a_model_without_stored_signatures_gets_one_of_its_tensors_names(models: Path) -> None:
    signature = load(models, "double").signatures["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert list(signature.inputs) == ["serving_default_x"]
    assert list(signature.outputs) == ["PartitionedCall"]
    info = signature.inputs["serving_default_x"]
    assert (info.name, info.dtype) == ("serving_default_x:0", 1)
    assert [dim.size for dim in info.tensor_shape.dim] == [1, 2]  # the interpreter's, which has 1 for what is not known


def test_of_outputs_that_differ_after_the_colon_the_last_is_seen(models: Path) -> None:
    signature = load(models, "two").signatures["serving_default"]
    assert {alias: info.name for alias, info in signature.outputs.items()} == {"PartitionedCall": "PartitionedCall:1"}


def test_batches_of_any_size_run_and_strings_too(models: Path) -> None:
    model = load(models, "double")
    for rows in (1, 3, 2, 1):
        x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
        assert np.array_equal(run(model, x), 2 * x)
    strings = np.array([b"a\0", b"\xff"], np.object_)
    assert run(load(models, "first"), strings).tolist() == [b"a\0", b"a\0"]


def test_concurrent_runs_get_their_own_rows(models: Path) -> None:
    model = load(models, "double", pool=2)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: run(model, np.full((n % 3 + 1, 2), n, np.float32)).tolist(), range(200)))
    assert answers == [[[2.0 * n] * 2] * (n % 3 + 1) for n in range(200)]


def test_a_run_that_fails_leaves_the_model_well(models: Path) -> None:
    model = load(models, "double")
    with pytest.raises(ServingError) as caught:
        run(model, np.zeros((2, 2), np.int32))
    assert caught.value.code.name == "INVALID_ARGUMENT"
    with pytest.raises(ServingError) as caught:
        model.run(["nope:0"], [np.zeros((1, 2), np.float32)], ["PartitionedCall:0"])
    assert caught.value.message == "Missing input TFLite tensor: nope:0: Unknown tensor 'nope:0'."
    assert run(model, np.ones((1, 2), np.float32)).tolist() == [[2, 2]]


def test_who_waits_for_an_interpreter_gives_up_at_the_deadline(models: Path) -> None:
    model = load(models, "double")
    taken = model._idle.get()
    with pytest.raises(ServingError, match="Timed out"):
        run(model, np.ones((1, 2), np.float32), deadline=time.monotonic() + 0.05)
    model._idle.put(taken)
    assert run(model, np.ones((1, 2), np.float32), deadline=time.monotonic() + 30).tolist() == [[2, 2]]


def with_signature(content: bytes, name: str, signature: meta_graph_pb2.SignatureDef) -> bytes:
    """The model, with a signature in its metadata as TensorFlow's own tool for it writes it."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.String(name, signature.SerializeToString().decode())
    buffer, metadata = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(bytes(builder.Finish()), np.uint8)
    metadata.name, metadata.buffer = b"signature_defs_metadata", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), metadata]
    packed = flatbuffers.Builder(0)
    packed.Finish(model.Pack(packed), b"TFL3")
    return bytes(packed.Output())


@pytest.mark.parametrize(("stored", "fault"), [("serving_default_x:0", ""), ("gone:0", "references an unknown tensor")])
def test_stored_signatures_count_and_must_name_tensors(models: Path, tmp_path: Path, stored: str, fault: str) -> None:
    signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    signature.inputs["x"].name, signature.outputs["y"].name = stored, "PartitionedCall:0"
    content = (models / "double" / "1" / "model.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(with_signature(content, "mine", signature))
    if fault:
        with pytest.raises(ServingError, match=fault):
            LiteModel(path, pool=1, threads=1)
        return
    model = LiteModel(path, pool=1, threads=1)
    assert dict(model.signatures) == {"mine": signature}
    assert run(model, np.ones((1, 2), np.float32)).tolist() == [[2, 2]]


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ServingError, match="Cannot build FlatBufferModel from buffer"):
        LiteModel(path, pool=1, threads=1)


@pytest.fixture(scope="module")
def server(models: Path, command: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" model_platform: "tensorflow" }} '
        for name in ("double", "first", "plain")
    )
    (folder / "models.config").write_text(f"model_config_list {{ {entries} }}")
    flags = [f"--model_config_file={folder / 'models.config'}", "--prefer_tflite_model=true"]
    running = Server(folder, flags, command=command)
    try:
        yield running.ready()
    finally:
        running.close()


def test_predict_and_metadata_over_grpc(server: Server) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "double"
    request.inputs["serving_default_x"].CopyFrom(tf.make_tensor_proto(np.float32([[1, 2], [3, 4]])))
    answer = server.prediction.Predict(request, 20)
    assert list(answer.outputs["PartitionedCall"].float_val) == [2, 4, 6, 8]
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "double"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    server.prediction.GetModelMetadata(asked, 20).metadata["signature_def"].Unpack(signatures)
    assert list(signatures.signature_def) == ["serving_default"]


@pytest.mark.parametrize(
    ("model", "rows", "expected"),
    [("double", [[1.0, 2.0]], [[2.0, 4.0]]), ("first", ["a", "b"], ["a", "a"]), ("plain", [1.0], [2.5])],
)
def test_predict_over_rest(server: Server, model: str, rows: object, expected: object) -> None:
    """A version without `model.tflite` is served from its SavedModel."""
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{model}:predict"
    assert httpx.post(url, json={"instances": rows}, timeout=20).json() == {"predictions": expected}
