"""A stack of the user's own models alone, one of which cannot answer: the real servers, as `serving up` starts them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.__main__ import main
from tests.stack import READY, START_SECONDS, Stack, start_stack

#: As TorchServe's own vision_handler takes an image: bytes, or base64 in JSON.
HANDLER = """
import base64
import io

from PIL import Image


class Sizes:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return [self.size(row) for row in data]

    def size(self, row):
        image = row.get("data") or row.get("body")
        if isinstance(image, dict):
            image = image["data"]
        if isinstance(image, str):
            image = base64.b64decode(image)
        return {"size": list(Image.open(io.BytesIO(image)).size)}
"""


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def archive(folder: Path, name: str, text: str) -> Path:
    handler = folder / f"{name}_handler.py"
    handler.write_text(text)
    archiver = Path(sys.executable).with_name("torch-model-archiver")
    options = ["--model-name", name, "--version", "1", "--handler", str(handler), "--export-path", str(folder)]
    subprocess.run([archiver, *options], check=True, capture_output=True, timeout=60)
    return folder / f"{name}.mar"


def saved_models(folder: Path) -> dict[str, Path]:
    """Examples that JSON cannot say, or that have no first dimension; and one whose answers are not allowed."""
    from models.frameworks.tensorflow import quiet_stderr, tf

    def half(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.cast(x, tf.float16) * tf.constant(0.5, tf.float16)}

    def bfloat(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * tf.constant(2, tf.bfloat16)}

    def scalar(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x + 1}

    def image(content: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"a_size": tf.shape(tf.io.decode_jpeg(content))[:2], "same": content}

    def picky(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.assert_less(x, 2.0, "x is too large")]):
            return {"y": tf.identity(x)}

    specs = {
        half: tf.TensorSpec([None, 2], tf.float32, "x"),
        bfloat: tf.TensorSpec([None, 2], tf.bfloat16, "x"),
        scalar: tf.TensorSpec([], tf.float32, "x"),
        image: tf.TensorSpec([], tf.string, "content"),
        picky: tf.TensorSpec([None], tf.float32, "x"),
    }
    paths = {}
    for function, spec in specs.items():
        module = tf.Module()
        module.serve = tf.function(function, input_signature=[spec])
        paths[function.__name__] = folder / function.__name__
        with quiet_stderr():
            tf.saved_model.save(module, str(paths[function.__name__]), signatures={"serving_default": module.serve})
    return paths


def lite(folder: Path) -> Path:
    from models.frameworks.tensorflow import quiet_stderr, tf

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def double(x: tf.Tensor) -> tf.Tensor:
        return x * 2

    path = folder / "lite.tflite"
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter warns of what it will not be any more
        path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([double.get_concrete_function()]).convert())
    return path


def bring(source: Path, root: Path, *flags: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["import", str(source), "--out", str(root), *flags]) == 0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Started with `--models` for these alone, in a folder with no documented model, allowed to train."""
    folder = tmp_path_factory.mktemp("own")
    root = folder / "artifacts"
    picture = folder / "picture.jpg"
    picture.write_bytes(jpeg(7, 5))
    saved = saved_models(folder)
    for name in ("half", "bfloat", "scalar", "picky"):
        bring(saved[name], root)
    bring(saved["image"], root, "--example", str(picture))
    # What the import has tried is no more what the model takes: the kind of example that fails.
    record = root / "imported" / "picky-1-tensorflow.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"example": {"x": [5.0]}}))
    bring(archive(folder, "sizes", HANDLER), root, "--example", str(picture))
    bring(lite(folder), root)
    bring(saved["scalar"], root, "--name", "not_asked_for")
    names = "half,bfloat,scalar,image,picky,sizes,lite"
    stack = start_stack(folder, "--artifacts", str(root), "--models", names, "--timeout", "120")
    try:
        stack.wait_for_text(READY, START_SECONDS)
        yield stack
    finally:
        stack.stop()


def row(stack: Stack, model: str) -> str:
    """The showcase's line of a model."""
    (found,) = [line for line in stack.text().splitlines() if line.strip().startswith(f"│ {model} ")]
    return found


def test_every_model_has_its_row_and_a_failing_one_says_why(own: Stack) -> None:
    """The kind: whatever keeps one example from being answered stops nothing else.

    Here a model that refuses its example; values that JSON cannot say (FP16, BF16, bytes that are no text); rank 0.
    """
    assert "x is too large" in row(own, "picky")
    assert "failed" in row(own, "picky")
    assert "failed" not in row(own, "half") + row(own, "bfloat") + row(own, "scalar") + row(own, "image")
    assert "5 7" in row(own, "image")
    assert "[ 7, 5 ]" in row(own, "sizes")


def test_only_what_was_asked_for_is_served_and_nothing_was_trained(own: Stack) -> None:
    names = {entry["name"] for entry in own.client.post("/v2/repository/index", content=b"{}").json()}
    assert names == {"half", "bfloat", "scalar", "image", "picky", "sizes", "lite"}
    assert own.client.get("/v2/models/not_asked_for").status_code == 404
    assert "Training" not in own.text()


Send = Callable[[Stack, bytes], dict[str, object]]


def put(stack: Stack, image: bytes) -> dict[str, object]:
    """The documented `curl -T image.jpg`."""
    url = f"http://127.0.0.1:{stack.http_port}/predictions/sizes"
    command = ["curl", "-s", "-T", "-", url]
    found: dict[str, object] = json.loads(subprocess.run(command, input=image, capture_output=True, check=True).stdout)
    return found


def encoded(stack: Stack, image: bytes) -> dict[str, object]:
    body = {"data": base64.b64encode(image).decode()}
    found: dict[str, object] = stack.client.post("/predictions/sizes", json=body).json()
    return found


def form(stack: Stack, image: bytes) -> dict[str, object]:
    found: dict[str, object] = stack.client.post("/predictions/sizes", files={"data": ("a.jpg", image)}).json()
    return found


def raw(stack: Stack, image: bytes) -> dict[str, object]:
    found: dict[str, object] = stack.client.post("/predictions/sizes/1.0", content=image).json()
    return found


@pytest.mark.parametrize("send", [put, encoded, form, raw])
def test_a_ready_archive_answers_images_however_torchserves_clients_send_them(own: Stack, send: Send) -> None:
    assert send(own, jpeg(31, 17)) == {"size": [31, 17]}


def test_a_tflite_file_answers_in_rows(own: Stack) -> None:
    answer = own.client.post("/v1/models/lite:predict", json={"instances": [[1.0, 2.0], [3.0, 4.0]]})
    assert answer.json() == {"predictions": [[2.0, 4.0], [6.0, 8.0]]}


def test_bytes_that_are_no_text_come_back_unharmed(own: Stack) -> None:
    """Through TensorFlow Serving's dialect, in base64; its output is no `*_bytes`, so binary tensors bring it back."""
    content = jpeg(3, 2)
    body = {"inputs": {"content": {"b64": base64.b64encode(content).decode()}}}
    answer = own.client.post("/v1/models/image:predict", json=body)
    assert answer.json()["outputs"]["a_size"] == [2, 3], answer.text
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "content",
                    "datatype": "BYTES",
                    "shape": [],
                    "parameters": {"binary_data_size": len(content) + 4},
                }
            ],
            "outputs": [{"name": "same", "parameters": {"binary_data": True}}],
        }
    ).encode()
    blob = np.uint32(len(content)).tobytes() + content
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = own.client.post("/v2/models/image/infer", content=head + blob, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.content.endswith(blob)
