"""What flags change that no other test gives: all of them on one server. Runs as well against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server, config_text

TIMEOUT_MS = 1500


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, command: str) -> Iterator[Server]:
    """`half` has a warm-up request, and batching parameters of its own; `text` and `slow` have neither."""
    folder = tmp_path_factory.mktemp("options")
    for name, build in (("half", savedmodels.half_plus(2)), ("text", savedmodels.text), ("slow", savedmodels.slow)):
        savedmodels.save(folder / name / "1", build)
    write_warmup(folder / "half" / "1")
    (folder / "half" / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    (folder / "models.config").write_text(config_text({name: folder / name for name in ("half", "text", "slow")}))
    (folder / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    flags = [
        f"--model_config_file={folder / 'models.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        f"--rest_api_timeout_in_ms={TIMEOUT_MS}",
        "--rest_api_enable_cors_support=true",
        "--rest_api_num_threads=4",
        "--enable_serialization_as_tensor_content=true",
        "--enable_batching=true",
        "--enable_per_model_batching_parameters=true",
        "--num_request_iterations_for_warmup=3",
        "--num_load_threads=2",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=1",
        "--file_system_poll_wait_seconds=0",
        "--saved_model_tags=serve",
        "--flush_filesystem_caches=false",
    ]
    running = Server(folder, flags, command=command)
    try:
        yield running.ready()
    finally:
        running.close()


def write_warmup(folder: Path) -> None:
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    request = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(np.float32([[0]]))})
    request.model_spec.name = "half"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(prediction_log_pb2.PredictionLog(predict_log={"request": request}).SerializeToString())


def post(server: Server, model: str, body: object) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{server.rest_port}/v1/models/{model}:predict", json=body, timeout=30)


def test_strings_go_out_as_content_where_that_is_asked_for(server: Server) -> None:
    """All lengths, then all bytes, as Tensor::AsProtoTensorContent writes them; numbers as they lie in memory."""
    request = predict_pb2.PredictRequest(inputs={"s": tf.make_tensor_proto([b"a", b"", b"bc"])})
    request.model_spec.name, request.model_spec.signature_name = "text", "plain"
    output = server.prediction.Predict(request, 20).outputs["s"]
    assert (output.tensor_content, list(output.string_val)) == (b"\x01\x00\x02abc", [])
    request = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(np.float32([[1], [2]]))})
    request.model_spec.name = "half"
    output = server.prediction.Predict(request, 20).outputs["y"]
    assert output.tensor_content == np.float32([2.5, 3]).tobytes()


def test_every_answer_has_the_headers_that_let_other_origins_in(server: Server) -> None:
    for answer in (post(server, "half", {"instances": [1.0]}), post(server, "nope", {})):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "POST, GET, OPTIONS"
        assert answer.headers["access-control-allow-headers"] == "Content-Type"


def test_a_request_over_the_time_limit_is_504(server: Server) -> None:
    answer = post(server, "slow", {"inputs": 100_000_000})
    assert (answer.status_code, answer.json()) == (504, {"error": "Timed out waiting for notification"})
    assert post(server, "slow", {"inputs": 1}).json() == {"outputs": 1.0}


def test_a_model_with_batching_parameters_of_its_own_is_batched_by_them_alone(server: Server) -> None:
    answer = post(server, "half", {"instances": [[1.0], [2.0], [3.0]]})
    assert answer.status_code == 400
    assert "Task size 3 is larger than maximum input batch size 2" in answer.json()["error"]
    assert post(server, "text", {"signature_name": "plain", "inputs": "no batch"}).json() == {"outputs": "no batch"}


def test_warm_up_and_batches_are_on_the_metrics_page_at_its_configured_path(server: Server) -> None:
    assert post(server, "half", {"instances": [[1.0]]}).status_code == 200
    text = httpx.get(f"http://127.0.0.1:{server.rest_port}/metrics").text
    assert '/half/1",status="OK"} 1\n' in text.partition("model_warmup_latency_count")[2]
    assert ":tensorflow:serving:batching_session:wrapped_run_count{} " in text
    assert ":tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name=" in text
