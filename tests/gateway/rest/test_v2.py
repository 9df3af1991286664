"""The v2 front of the real gateway process, before servers that can be told to fail."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway
from tests.gateway.transports import REST, SOCKET, Served, over, serving

LIMIT = 100_000
VARIANTS = ("tensorflow", "pytorch")


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"double": [1, 3], "lenient": [1]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"double": ["3", "1"], "lenient": ["1"]})
    yield fake
    fake.close()


@pytest.fixture(scope="module", params=REST)
def gateway(
    request: pytest.FixtureRequest,
    tensorflow: FakeTFServing,
    pytorch: FakeTorchServe,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    settings = {
        "http": {"max_body_bytes": LIMIT},
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}, "lenient": {"allow_non_finite": True}, "absent": {}},
        "default_deadline_seconds": 5,
    }
    ready = [f"double@{variant}" for variant in VARIANTS]
    with serving(request.param, settings, tmp_path_factory.mktemp("gateway"), *ready) as running:
        yield running


def error(response: httpx.Response) -> str:
    """The text of an error in the protocol's own shape: nothing but ``{"error": text}``."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    return str(body["error"])


def test_server_metadata_lists_what_is_really_there(gateway: Served) -> None:
    body = gateway.client.get("/v2").json()
    extensions = ["binary_tensor_data", "classification", "model_configuration", "statistics"]
    assert body == {"name": "duet", "version": "0.1.0", "extensions": extensions}


def test_health(gateway: Served) -> None:
    assert gateway.client.get("/v2/health/live").json() == {"live": True}
    assert gateway.client.get("/v2/health/ready").json() == {"ready": True}
    assert gateway.admin.get("/healthz").status_code == gateway.admin.get("/readyz").status_code == 200


@pytest.mark.parametrize("variant", VARIANTS)
def test_model_metadata_comes_from_the_server(gateway: Served, variant: str) -> None:
    response = gateway.client.get(f"/v2/models/double@{variant}")
    assert response.json() == {
        "name": "double",
        "versions": ["1", "3"],
        "platform": {"tensorflow": "tensorflow_savedmodel", "pytorch": "pytorch_torchscript"}[variant],
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }
    assert response.headers["x-duet-variant"] == variant
    assert response.headers["x-duet-version"] == "3"


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_way_to_pin_reaches_the_variant(gateway: Served, variant: str) -> None:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [4]}
    by_parameter = {"inputs": [tensor], "parameters": {"variant": variant}}
    answers = [
        gateway.infer(f"double@{variant}", [4]),
        gateway.infer(f"double%40{variant}", [4]),
        gateway.infer("double", [4], **{"x-duet-variant": variant}),
        gateway.client.post("/v2/models/double/infer", json=by_parameter),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == [8.0]
        assert answer.headers["x-duet-variant"] == variant


def test_pins_that_disagree_are_refused(gateway: Served) -> None:
    answer = gateway.infer("double@pytorch", [1], **{"x-duet-variant": "tensorflow"})
    assert answer.status_code == 400
    assert "several variants" in error(answer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_versions_are_addressable(gateway: Served, variant: str) -> None:
    """The newest serves by default (or TorchServe's own default), a version in the path pins it."""
    assert gateway.infer(f"double@{variant}", [1]).json()["model_version"] == "3"
    assert gateway.infer(f"double@{variant}/versions/1", [1]).headers["x-duet-version"] == "1"
    assert gateway.client.get(f"/v2/models/double@{variant}/versions/1/ready").json()["ready"] is True
    for version in ("2", "x", "1.0", "9" * 30):
        missing = gateway.infer(f"double@{variant}/versions/{version}", [1])
        assert missing.status_code == 404
        assert "version" in error(missing)


@pytest.mark.parametrize("variant", VARIANTS)
def test_binary_tensors_both_ways(gateway: Served, variant: str) -> None:
    values = np.array([[0.1], [np.float32(1e-45)], [3e38 / 4]], np.float32)
    document = (
        b'{"inputs":[{"name":"x","shape":[3,1],"datatype":"FP32","parameters":{"binary_data_size":12}}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
    )
    answer = gateway.client.post(
        f"/v2/models/double@{variant}/infer",
        content=document + values.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(document))},
    )
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    assert np.array_equal(np.frombuffer(answer.content[length:], np.float32), (2 * values).ravel())


def test_both_variants_answer_the_same_bytes(gateway: Served) -> None:
    values = [0.1, 1e-40, 123456.789, -0.0]
    bodies = {gateway.infer(f"double@{variant}", values).content for variant in VARIANTS}
    assert len(bodies) == 1


def test_the_request_id_of_the_body_is_echoed_and_that_of_the_header_too(gateway: Served) -> None:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [4]}
    answer = gateway.client.post(
        "/v2/models/double/infer", json={"id": "ü7", "inputs": [tensor]}, headers={"x-request-id": "abc-1"}
    )
    assert answer.json()["id"] == "ü7"
    assert answer.headers["x-request-id"] == "abc-1"


def test_an_id_that_could_forge_a_log_line_is_replaced(gateway: Served) -> None:
    answer = gateway.client.get("/v2", headers={"x-request-id": 'a" b'})
    assert answer.headers["x-request-id"] != 'a" b'


def test_server_timing_says_where_the_time_went(gateway: Served) -> None:
    timing = gateway.infer("double", [1]).headers["server-timing"]
    parts = {part.split(";dur=")[0]: float(part.split(";dur=")[1]) for part in timing.split(", ")}
    assert list(parts) == ["decode", "backend", "encode", "total"]
    assert parts["decode"] + parts["backend"] + parts["encode"] <= parts["total"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("double/infer", b"{", 400, "not valid JSON"),
        ("double/infer", b'{"inputs":[]}', 400, "at least one tensor"),
        ("double/infer", b'{"inputs":[{"name":"z","shape":[1],"datatype":"FP32","data":[1]}]}', 400, "missing: 'x'"),
        ("double/infer", b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"INT32","data":[1]}]}', 400, "takes FP32"),
        ("double/infer", b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}', 400, "[-1, 1]"),
        (
            "double/infer",
            b'{"inputs":[{"name":"x","shape":[2,1],"datatype":"FP32","data":[1]}]}',
            400,
            "takes 2 values",
        ),
        ("double/infer", b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[NaN]}]}', 400, "not JSON"),
        ("double/infer", b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1e39]}]}', 400, "range"),
        ("nope/infer", b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}', 404, "unknown model"),
        (
            "double@jax/infer",
            b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}',
            404,
            "no variant",
        ),
        ("absent/infer", b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}', 503, "not ready"),
        ("double/infer", b" " * (LIMIT + 1), 413, "larger than the 100000 bytes"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(gateway: Served, path: str, body: bytes, status: int, says: str) -> None:
    answer = gateway.client.post(f"/v2/models/{path}", content=body)
    assert answer.status_code == status
    assert says in error(answer)


def test_a_body_over_the_limit_is_refused_though_its_length_is_not_declared(gateway: Served) -> None:
    answer = gateway.client.post("/v2/models/double/infer", content=iter([b" " * 60_000] * 2))
    assert answer.status_code == 413


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_need_the_models_leave(gateway: Served, value: float) -> None:
    document = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}'
    content = document + np.array([value], np.float32).tobytes()
    headers = {"Inference-Header-Content-Length": str(len(document))}
    refused = gateway.client.post("/v2/models/double/infer", content=content, headers=headers)
    assert refused.status_code == 400
    assert "NaN or infinity" in error(refused)
    # Let in, it comes back out; and an answer that JSON cannot carry is an error, not null.
    let_in = gateway.client.post("/v2/models/lenient/infer", content=content, headers=headers)
    assert let_in.status_code == 400
    assert "ask for binary data" in error(let_in)


@pytest.mark.parametrize("length", ["x", "-1", "0", "999999", "1" * 30])
def test_a_header_length_that_cannot_be_is_refused(gateway: Served, length: str) -> None:
    answer = gateway.client.post(
        "/v2/models/double/infer", content=b"{}", headers={"Inference-Header-Content-Length": length}
    )
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in error(answer)


def test_the_routers_own_errors_have_the_protocols_shape(gateway: Served) -> None:
    """tritonclient reads ``error`` and nothing else."""
    missing = gateway.client.get("/v2/nothing/here")
    assert (missing.status_code, error(missing)) == (404, "GET /v2/nothing/here: not found")
    wrong = gateway.client.get("/v2/models/double/infer")
    assert wrong.status_code == 405
    assert error(wrong) == "GET /v2/models/double/infer: method not allowed"
    assert wrong.headers["allow"] == "POST"


def test_an_unknown_content_encoding_is_told_with_those_that_are_known(gateway: Served) -> None:
    for coding in ("br", "gzip, deflate"):
        answer = gateway.client.post("/v2/models/double/infer", content=b"{}", headers={"content-encoding": coding})
        assert answer.status_code == 501
        assert coding in error(answer)
        assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_the_v2_timeout_parameter_is_the_deadline(gateway: Served, pytorch: FakeTorchServe) -> None:
    """Microseconds, as Triton has it. The server is slow; the answer comes when the deadline does."""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [4]}
    pytorch.delay_seconds = 1
    try:
        answer = gateway.client.post(
            "/v2/models/double@pytorch/infer", json={"inputs": [tensor], "parameters": {"timeout": 50_000}}
        )
    finally:
        pytorch.delay_seconds = 0
    assert answer.status_code == 504
    assert "deadline" in error(answer)
    bad = gateway.client.post("/v2/models/double/infer", json={"inputs": [tensor], "parameters": {"timeout": "1s"}})
    assert bad.status_code == 400


def test_metrics_tell_model_variant_version_front_and_code(gateway: Served) -> None:
    gateway.infer("double@pytorch", [1, 2, 3])
    gateway.infer("double@tensorflow/versions/1", [1])
    gateway.infer("scanner-made-this-up", [1])
    text = gateway.admin.get("/metrics").text
    labels = 'front="v2_rest",model="double",variant="pytorch",version="3"'
    assert f'duet_requests_total{{code="OK",{labels}}}' in text
    assert f"duet_rows_total{{{labels}}}" in text
    assert f"duet_request_seconds_count{{{labels}}}" in text
    assert 'duet_backend_seconds_count{model="double",variant="tensorflow",version="1"}' in text
    assert 'duet_requests_total{code="NOT_FOUND",front="v2_rest",model="__unknown__",variant="",version=""}' in text
    assert "scanner" not in text
    assert 'duet_requests_in_flight{front="v2_rest"} 0.0' in text


@over(SOCKET)
def test_openapi_describes_the_calls_that_are_there(gateway: RunningGateway) -> None:
    document = gateway.admin.get("/openapi.json").json()
    of_a_model = {
        f"/v2/models/{{model}}{version}{call}"
        for version in ("", "/versions/{version}")
        for call in ("", "/ready", "/config", "/stats", "/infer")
    }
    of_all = {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/stats", "/v2/repository/index"}
    assert set(document["paths"]) == of_all | of_a_model
    assert document["servers"] == [{"url": "/"}]
    assert gateway.client.get("/docs").status_code == 404
    assert "swagger" in gateway.admin.get("/docs").text


@over(SOCKET)
def test_a_client_that_hangs_up_halfway_harms_nobody(gateway: RunningGateway) -> None:
    host, port = "127.0.0.1", gateway.client.base_url.port
    assert port is not None
    with socket.create_connection((host, port)) as connection:
        connection.sendall(b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
    assert gateway.infer("double", [1]).status_code == 200


@over(SOCKET)
def test_the_gateway_runs_neither_framework_and_stays_small(gateway: RunningGateway) -> None:
    """Under 150 MB resident, after the tests above, and no library of TensorFlow or torch is mapped."""
    process = Path(f"/proc/{gateway.process.pid}")
    if not process.exists():
        pytest.skip("needs /proc")
    maps = (process / "maps").read_text().lower()
    assert "orjson" in maps
    assert "tensorflow" not in maps
    assert "torch" not in maps
    resident = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
    assert int(resident.split()[1]) < 150 * 1024


def test_a_header_is_the_deadline_in_every_rest_dialect(gateway: Served, pytorch: FakeTorchServe) -> None:
    """Milliseconds. The server is slow; the answer comes when the deadline does."""
    calls = {
        "/v2/models/double@pytorch/infer": '{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[4]}]}',
        "/v1/models/double@pytorch:predict": '{"instances":[[4.0]]}',
        "/predictions/double@pytorch": "[[4.0]]",
    }
    pytorch.delay_seconds = 1
    try:
        for path, body in calls.items():
            late = gateway.client.post(path, content=body, headers={"x-duet-timeout-ms": "50"})
            assert late.status_code == 504, path
    finally:
        pytorch.delay_seconds = 0
    for text in ("-1", "0", "soon", "1e3", ""):
        bad = gateway.infer("double", [1], **{"x-duet-timeout-ms": text})
        assert bad.status_code == 400
        assert "milliseconds" in error(bad)
