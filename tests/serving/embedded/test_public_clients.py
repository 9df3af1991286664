"""The calls of TensorFlow Serving's own documentation, as they stand there but for the port, and its published stubs.

https://www.tensorflow.org/tfx/serving: api_rest, docker, serving_config, serving_basic.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server


def half_plus_three() -> Mapping[str, savedmodels.Signature]:
    """With the signature names that the documentation uses."""
    made = dict(savedmodels.half_plus(3)())
    made["tensorflow/serving/predict"] = made["serving_default"]
    made["tensorflow/serving/regress"] = made["regress_x_to_y"]
    made["tensorflow/serving/classify"] = made["classify_x_to_y"]
    return made


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory, command: str) -> Iterator[Server]:
    """half_plus_two in version 123, half_plus_three in 123 and 124, of which 123 is `stable` and 124 `canary`."""
    folder = tmp_path_factory.mktemp("documented")
    savedmodels.save(folder / "half_plus_two" / "00000123", savedmodels.half_plus(2))
    for number in ("00000123", "00000124"):
        savedmodels.save(folder / "half_plus_three" / number, half_plus_three)
    (folder / "models.config").write_text(
        f'model_config_list {{\n  config {{\n    name: "half_plus_two"\n    base_path: "{folder}/half_plus_two/"\n'
        f'    model_platform: "tensorflow"\n  }}\n'
        f'  config {{\n    name: "half_plus_three"\n    base_path: "{folder}/half_plus_three/"\n'
        '    model_platform: "tensorflow"\n    model_version_policy {\n      specific {\n        versions: 123\n'
        "        versions: 124\n      }\n    }\n"
        "    version_labels {\n      key: 'stable'\n      value: 123\n    }\n"
        "    version_labels {\n      key: 'canary'\n      value: 124\n    }\n  }\n}\n"
    )
    (folder / "monitoring.config").write_text(
        'prometheus_config {\n  enable: true,\n  path: "/monitoring/prometheus/metrics"\n}\n'
    )
    flags = [f"--model_config_file={folder / 'models.config'}", f"--monitoring_config_file={folder}/monitoring.config"]
    running = Server(folder, [*flags, "--allow_version_labels_for_unavailable_models=true"], command=command)
    yield running.ready()
    running.close()


STATUS = """{
 "model_version_status": [
  {
   "version": "123",
   "state": "AVAILABLE",
   "status": {
    "error_code": "OK",
    "error_message": ""
   }
  }
 ]
}
"""
REGRESS = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
CLASSIFY = '{"signature_name": "tensorflow/serving/classify", "examples": [{"x": 1.0}, {"x": 2.0}]}'
ROWS, THREE = '{"instances": [1.0,2.0,5.0]}', '{\n    "predictions": [3.5, 4.0, 5.5\n    ]\n}'
#: What is typed, and what is printed. The documentation's examples show `]` on the line of the values: it is the
#: server's own layout that puts it on the next.
CALLS = {
    "docker": (
        """curl -d '{"instances": [1.0, 2.0, 5.0]}' -X POST http://localhost:8501/v1/models/half_plus_two:predict""",
        '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}',
    ),
    "status": ("curl http://localhost:8501/v1/models/half_plus_two", STATUS),
    "status of a version": ("curl http://localhost:8501/v1/models/half_plus_three/versions/123", STATUS),
    "predict": (f"curl -d '{ROWS}' -X POST http://localhost:8501/v1/models/half_plus_three:predict", THREE),
    "predict on a version": (
        f"curl -d '{ROWS}' -X POST http://localhost:8501/v1/models/half_plus_three/versions/123:predict",
        THREE,
    ),
    "predict on a label": (
        f"curl -d '{ROWS}' -X POST http://localhost:8501/v1/models/half_plus_three/labels/stable:predict",
        THREE,
    ),
    "predict in columns": (
        """curl -d '{"inputs": {"x": [1.0]}}' -X POST http://localhost:8501/v1/models/half_plus_three:predict""",
        '{\n    "outputs": [\n        3.5\n    ]\n}',
    ),
    "predict with a type and a header": (
        f"curl -H 'content-type: application/json' --data-binary '{ROWS}' "
        "http://localhost:8501/v1/models/half_plus_three:predict",
        THREE,
    ),
    "regress": (
        f"curl -d '{REGRESS}' -X POST http://localhost:8501/v1/models/half_plus_three:regress",
        '{\n    "results": [3.5, 4.0]\n}',
    ),
    "regress on a label": (
        f"curl -d '{REGRESS}' -X POST http://localhost:8501/v1/models/half_plus_three/labels/canary:regress",
        '{\n    "results": [3.5, 4.0]\n}',
    ),
    "classify": (
        f"curl -d '{CLASSIFY}' -X POST http://localhost:8501/v1/models/half_plus_three/versions/124:classify",
        '{\n    "results": [[["", 3.5]], [["", 4.0]]\n    ]\n}',
    ),
    "from a file": (
        "curl -X POST -d @body.json http://localhost:8501/v1/models/half_plus_three:predict",
        THREE,
    ),
}


def curl(server: Server, line: str, folder: Path) -> str:
    """What the command line prints, with this server's port in the place of 8501."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    typed = shlex.split(line.replace("localhost:8501", f"127.0.0.1:{server.rest_port}"))
    done = subprocess.run(
        [typed[0], "-sS", "--noproxy", "*", "--max-time", "20", *typed[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("case", CALLS)
def test_documented_curl_calls_print_what_is_documented(documented: Server, tmp_path: Path, case: str) -> None:
    line, printed = CALLS[case]
    (tmp_path / "body.json").write_text(ROWS)
    assert curl(documented, line, tmp_path) == printed


def test_a_wrong_model_is_the_documented_404(documented: Server, tmp_path: Path) -> None:
    line = """curl -i -d '{"instances": [1.0,5.0]}' -X POST http://localhost:8501/v1/models/half:predict"""
    head, _, body = curl(documented, line, tmp_path).replace("\r\n", "\n").partition("\n\n")
    status, *headers = head.splitlines()
    assert status == "HTTP/1.1 404 Not Found"
    fields = {name.lower(): value for name, _, value in (header.partition(": ") for header in headers)}
    assert fields["content-type"] == "application/json"
    assert fields["content-length"] == str(len(body))
    assert "date" in fields
    assert json.loads(body) == {"error": "Servable not found for request: Latest(half)"}


SIGNATURES = {f"tensorflow/serving/{verb}" for verb in ("predict", "classify", "regress")}
SIGNATURES |= {"serving_default", "regress_x_to_y", "regress_x_to_y2", "classify_x_to_y", "classify_named"}


@pytest.mark.parametrize("path", ["", "/versions/123", "/labels/stable"])
def test_metadata_by_curl(documented: Server, tmp_path: Path, path: str) -> None:
    printed = curl(documented, f"curl http://localhost:8501/v1/models/half_plus_three{path}/metadata", tmp_path)
    answer = json.loads(printed)
    assert answer["model_spec"] == {
        "name": "half_plus_three",
        "signature_name": "",
        "version": "123" if path else "124",
    }
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == SIGNATURES
    assert signatures["tensorflow/serving/regress"]["method_name"] == "tensorflow/serving/regress"


def test_the_monitoring_page_by_curl(documented: Server, tmp_path: Path) -> None:
    printed = curl(documented, "curl http://localhost:8501/monitoring/prometheus/metrics", tmp_path)
    assert "# TYPE :tensorflow:serving:request_count counter" in printed


def test_the_published_stubs_call_everything(documented: Server) -> None:
    """As the documentation's clients do it: an insecure channel without options, `make_tensor_proto`, `float_val`."""
    channel = grpc.insecure_channel(f"127.0.0.1:{documented.port}")
    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    model = model_service_pb2_grpc.ModelServiceStub(channel)

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_three"
    request.model_spec.signature_name = "serving_default"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([[1], [2], [5]]), shape=[3, 1]))
    assert list(prediction.Predict(request, 10.0).outputs["y"].float_val) == [3.5, 4.0, 5.5]
    future = prediction.Predict.future(request, 10.0)
    np.testing.assert_array_equal(tf.make_ndarray(future.result().outputs["y"]), [[3.5], [4.0], [5.5]])

    for choice in ({"version": {"value": 123}}, {"version_label": "stable"}):
        request.model_spec.MergeFrom(type(request.model_spec)(**choice))
        assert prediction.Predict(request, 10.0).model_spec.version.value == 123

    example = tf.train.Example(features={"feature": {"x": {"float_list": {"value": [1.0]}}}})
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "half_plus_three", "classify_x_to_y"
    classify.input.example_list.examples.extend([example])
    (classified,) = prediction.Classify(classify, 10.0).result.classifications
    assert [entry.score for entry in classified.classes] == [3.5]

    regress = regression_pb2.RegressionRequest()
    regress.model_spec.name, regress.model_spec.signature_name = "half_plus_three", "regress_x_to_y"
    regress.input.example_list.examples.extend([example])
    assert [entry.value for entry in prediction.Regress(regress, 10.0).result.regressions] == [3.5]

    both = inference_pb2.MultiInferenceRequest()
    for signature, method in (("regress_x_to_y", "regress"), ("classify_x_to_y", "classify")):
        task = both.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "half_plus_three", signature
    both.input.example_list.examples.extend([example])
    assert [result.WhichOneof("result") for result in prediction.MultiInference(both, 10.0).results] == [
        "regression_result",
        "classification_result",
    ]

    metadata = get_model_metadata_pb2.GetModelMetadataRequest()
    metadata.model_spec.name = "half_plus_three"
    metadata.metadata_field.append("signature_def")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert prediction.GetModelMetadata(metadata, 10.0).metadata["signature_def"].Unpack(signatures)
    assert "tensorflow/serving/predict" in signatures.signature_def

    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "half_plus_three"
    states = [(entry.version, entry.state) for entry in model.GetModelStatus(status, 10.0).model_version_status]
    assert states == [(124, 30), (123, 30)]
    channel.close()
