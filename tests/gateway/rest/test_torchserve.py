"""TorchServe's REST in front of the real gateway process, before servers of both frameworks."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from gateway.errors import Code
from gateway.rest.torchserve import TYPES
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.conftest import RunningGateway
from tests.gateway.transports import REST, SOCKET, Served, over, serving

LIMIT = 100_000
VARIANTS = ("tensorflow", "pytorch")
VALUES = np.array([[0.1], [np.float32(1e-45)], [-0.0]], np.float32)


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"double": [1, 3]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"double": ["3.0", "1.0"]})
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
        "models": {"double": {}, "absent": {}},
        "default_deadline_seconds": 0.5,
    }
    ready = [f"double@{variant}" for variant in VARIANTS]
    with serving(request.param, settings, tmp_path_factory.mktemp("gateway"), *ready) as running:
        yield running


def failed(response: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message of an error, which has TorchServe's shape and nothing else."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["code", "type", "message"]
    assert body["code"] == response.status_code
    return response.status_code, body["type"], body["message"]


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_ping(gateway: Served) -> None:
    """Any verb, as TorchServe answers it."""
    for verb in ("GET", "POST", "OPTIONS"):
        answer = gateway.client.request(verb, "/ping")
        assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})


def test_ping_says_unhealthy_while_no_model_is_ready(gateway_with: Any) -> None:
    server = {"kind": "torchserve", "endpoint": "http://127.0.0.1:9", "management": "http://127.0.0.1:9"}
    answer = gateway_with({"servers": {"pytorch": server}, "models": {"m": {}}}).client.get("/ping")
    assert (answer.status_code, answer.json()) == (500, {"status": "Unhealthy"})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (5.0, 10.0),
        ([1, 2], [2.0, 4.0]),
        ([[0.1]], [[0.2]]),
        ([], []),
        ({"x": [[4]]}, [[8.0]]),
        ({"instances": [[1.5], [2]]}, {"predictions": [[3.0], [4.0]]}),
        ({"instances": [{"x": [1.5]}]}, {"predictions": [[3.0]]}),
        ({"inputs": [[1.5]]}, {"outputs": [[3.0]]}),
    ],
    ids=orjson.dumps,
)
def test_json_is_answered_in_kind(gateway: Served, variant: str, body: Any, answer: Any) -> None:
    response = gateway.client.post(f"/predictions/double@{variant}", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json() == answer


def test_the_open_inference_protocols_bodies_are_answered_as_it_has_them(gateway: Served) -> None:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [4]}
    answer = gateway.client.post("/predictions/double/1", json={"id": "7", "inputs": [tensor]}).json()
    assert answer == {
        "model_name": "double",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [8.0]}],
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_form_that_the_archives_handler_speaks_works_here_too(gateway: Served, variant: str) -> None:
    """A client of TorchServe with Duet's handler sends the binary form and reads the binary form, and nothing else."""
    document = b'{"inputs":[{"name":"x","shape":[3,1],"datatype":"FP32","parameters":{"binary_data_size":12}}]}'
    headers = {"Inference-Header-Content-Length": str(len(document)), "Content-Type": "application/octet-stream"}
    content = document + VALUES.tobytes()
    answer = gateway.client.post(f"/predictions/double@{variant}/1.0", content=content, headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.content[length:] == (2 * VALUES).tobytes()
    as_json = gateway.client.post(
        f"/predictions/double@{variant}", content=content, headers={**headers, "Accept": "application/json"}
    )
    assert as_json.json()["outputs"][0]["shape"] == [3, 1]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (VALUES.tobytes(), "application/octet-stream"),
        (VALUES.tobytes(), None),
        (npy(VALUES), "application/x-npy"),
        (npy(VALUES), None),
        (npy(VALUES.astype(np.float64)), "application/octet-stream"),
        (npy(np.asfortranarray(VALUES)), None),
    ],
)
@pytest.mark.parametrize("verb", ["POST", "PUT"])
def test_raw_bytes_and_npy_both_ways(
    gateway: Served, variant: str, content: bytes, kind: str | None, verb: str
) -> None:
    def call(accept: str) -> httpx.Response:
        headers = {"accept": accept, **({"content-type": kind} if kind else {})}
        return gateway.client.request(verb, f"/predictions/double@{variant}", content=content, headers=headers)

    octets = call("application/octet-stream")
    assert octets.headers["content-type"] == "application/octet-stream"
    assert octets.content == (2 * VALUES).tobytes()
    file = call("application/x-npy")
    assert file.headers["content-type"] == "application/x-npy"
    array = np.load(io.BytesIO(file.content), allow_pickle=False)
    assert array.dtype == np.float32
    assert array.tobytes() == (2 * VALUES).tobytes()
    assert array.shape == (3, 1)


@pytest.mark.parametrize("content", [b"[[4]]", VALUES[:1].tobytes(), npy(VALUES[:1])], ids=["JSON", "raw", "npy"])
@pytest.mark.parametrize("name", ["x", "data", "body"])
def test_multipart_parts_are_the_inputs(gateway: Served, content: bytes, name: str) -> None:
    """By their names, or as TorchServe's examples name the body of a model with one input."""
    answer = gateway.client.post("/predictions/double", files={name: ("file", content)})
    assert answer.json() in ([[8.0]], [[float(np.float32(0.2))]], [[0.2]])
    assert answer.headers["x-duet-variant"] == "tensorflow"


@over(SOCKET)
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_documented_curl_calls(gateway: RunningGateway, variant: str, tmp_path: Path) -> None:
    """``-T`` is a PUT without a type, ``-d`` says that JSON is a form, ``-F`` calls every file octet-stream."""
    file = tmp_path / "input.json"
    file.write_text("[[4]]\n ")  # eight bytes: as raw floats they would be two rows
    url = f"{gateway.url}/predictions/double@{variant}"
    for arguments in (
        ["-T", str(file)],
        ["-d", "[[4]]"],
        ["-d", f"@{file}"],
        ["-F", f"data=@{file}"],
        ["-F", "x=[[4]]"],
    ):
        answer = subprocess.run(["curl", "-s", url, *arguments], capture_output=True, timeout=20, check=True)
        assert orjson.loads(answer.stdout) == [[8.0]], arguments


@pytest.mark.parametrize("variant", VARIANTS)
def test_versions_are_texts_and_pins_hold(gateway: Served, variant: str) -> None:
    for path, version in (("", "3"), ("/", "3"), ("/1", "1"), ("/1.0", "1"), ("/3.0", "3"), ("/1.0/any/thing", "1")):
        for model, pin in ((f"double@{variant}", None), (f"double%40{variant}", None), ("double", variant)):
            headers = {"x-duet-variant": pin} if pin else {}
            answer = gateway.client.post(f"/predictions/{model}{path}", json=[[1]], headers=headers)
            assert answer.status_code == 200, answer.text
            assert (answer.headers["x-duet-variant"], answer.headers["x-duet-version"]) == (variant, version)
            assert answer.headers["x-request-id"]
            assert "decode;dur=" in answer.headers["server-timing"]


@over(SOCKET)
def test_an_escaped_slash_is_refused(gateway: RunningGateway) -> None:
    """Who stands before the gateway would take it for a part of a name, and who is behind it for a new one."""
    answer = gateway.client.post("/predictions/double%2F1.0", json=[[1]])
    assert answer.status_code == 400
    assert answer.json()["type"] == "BadRequestException"


@pytest.mark.parametrize(
    ("path", "content", "status", "kind", "says"),
    [
        ("nope", b"{", 404, "ModelNotFoundException", "Model not found: nope"),
        ("double@jax", b"{", 404, "ModelNotFoundException", "no variant 'jax'"),
        ("double/2", b"{", 404, "ModelVersionNotFoundException", "Model version: 2 does not exist for model: double"),
        ("double/1.5", b"{", 404, "ModelVersionNotFoundException", "1.5"),
        ("double/x", b"[[1]]", 404, "ModelVersionNotFoundException", "x"),
        ("", b"[[1]]", 404, "ResourceNotFoundException", "Requested resource is not found"),
        ("absent", b"[[1]]", 503, "ServiceUnavailableException", "not ready"),
        ("nope", b" " * (LIMIT + 1), 413, "BadRequestException", "larger than the 100000 bytes"),
        ("double", b"{", 400, "BadRequestException", "not valid JSON"),
        ("double", b"", 400, "BadRequestException", "the body is empty"),
        ("double", b'{"z":[[1]]}', 400, "BadRequestException", "the model's inputs are 'x'"),
        ("double", b"[[1,2]]", 400, "BadRequestException", "[-1, 1]"),
        ("double", b"[[true]]", 400, "BadRequestException", "found a boolean"),
        ("double", b"[[NaN]]", 400, "BadRequestException", "not JSON"),
        ("double", b"[[1e39]]", 400, "BadRequestException", "range"),
        ("double", b"\0\0\0", 400, "BadRequestException", "no whole number of 4 bytes"),
    ],
)
def test_errors_have_torchserves_shape_types_and_order(
    gateway: Served, path: str, content: bytes, status: int, kind: str, says: str
) -> None:
    """Size, route, model, version, body: a bad body to an unknown model is an unknown model."""
    answer = gateway.client.post(f"/predictions/{path}", content=content)
    assert failed(answer)[:2] == (status, kind)
    assert says in failed(answer)[2]


def test_overload_is_429_and_a_server_that_is_away_503_both_with_retry_after(
    gateway: Served, pytorch: FakeTorchServe
) -> None:
    busy = failure(503, "ServiceUnavailableException", 'Model "double" has no worker to serve inference request.')
    pytorch.answer = lambda: busy
    try:
        answer = gateway.client.post("/predictions/double@pytorch", json=[[1]])
    finally:
        pytorch.answer = None
    assert failed(answer)[:2] == (429, "ServiceUnavailableException")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-duet-variant"] == "pytorch"
    assert gateway.client.post("/predictions/absent", json=[[1]]).headers["retry-after"] == "1"


def test_a_late_answer_is_504(gateway: Served, pytorch: FakeTorchServe) -> None:
    pytorch.delay_seconds = 1
    try:
        answer = gateway.client.post("/predictions/double@pytorch", json=[[1]])
    finally:
        pytorch.delay_seconds = 0
    assert failed(answer)[:2] == (504, "RequestTimeoutException")


def test_compressed_bodies(gateway: Served) -> None:
    """gzip is undone; what is unknown says what is known."""
    headers = {"content-encoding": "gzip"}
    assert gateway.client.post("/predictions/double", content=gzip.compress(b"[[1]]"), headers=headers).json() == [[2]]
    unknown = gateway.client.post("/predictions/double", content=b"{}", headers={"content-encoding": "br"})
    assert failed(unknown)[:2] == (501, "BadRequestException")
    assert unknown.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    "path", ["/explanations/double", "/models", "/models/double", "/workflows/w", "/wfpredict/w", "/invocations"]
)
def test_calls_that_are_not_offered_are_missing_as_torchserve_says_it(gateway: Served, path: str) -> None:
    for verb in ("GET", "POST", "PUT", "DELETE"):
        assert failed(gateway.client.request(verb, path))[:2] == (404, "ResourceNotFoundException")


def test_options_describes_the_server_and_the_model(gateway: Served) -> None:
    server = gateway.client.options("/").json()
    assert server["openapi"] == "3.0.1"
    assert set(server["paths"]) == {
        "/ping",
        "/predictions/{model_name}",
        "/predictions/{model_name}/{model_version}",
    }
    model = gateway.client.options("/predictions/double/1.0").json()
    content = model["paths"]["/predictions/double/1.0"]["post"]["requestBody"]["content"]
    assert set(content) == {
        "application/json",
        "application/octet-stream",
        "application/x-npy",
        "multipart/form-data",
    }
    row = content["application/json"]["schema"]["items"]
    assert (row["items"], row["minItems"], row["maxItems"]) == ({"type": "number"}, 1, 1)
    assert failed(gateway.client.options("/predictions/nope"))[:2] == (404, "ModelNotFoundException")


def test_requests_count_under_their_front_and_model(gateway: Served) -> None:
    gateway.client.post("/predictions/double@pytorch", json=[[1], [2]])
    gateway.client.post("/predictions/double@pytorch", content=b"{")
    gateway.client.post("/predictions/made-up", json=[[1]])
    text = gateway.admin.get("/metrics").text
    labels = 'front="torchserve_rest",model="double",variant="pytorch",version="3"'
    assert f'duet_requests_total{{code="OK",{labels}}}' in text
    assert f'duet_requests_total{{code="INVALID_ARGUMENT",{labels}}}' in text
    assert f"duet_rows_total{{{labels}}}" in text
    assert "made-up" not in text


def test_every_code_has_a_type() -> None:
    assert set(TYPES) == set(Code)
