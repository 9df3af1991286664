"""Models whose handler is the user's own: what goes in comes to it untouched, and so does its answer to the client."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from gateway.codecs import multipart
from gateway.protos import tfserving_pb2 as tf_pb
from gateway.protos import torchserve_pb2 as pb
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import Answer, FakeTorchServe, failure
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for

SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
HANDLER = "InternalServerException"


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"plain": [1]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def _pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"mine": ["1.0", "2"], "other": ["1"]})
    fake.describes_signatures = False
    yield fake
    fake.close()


@pytest.fixture
def pytorch(_pytorch: FakeTorchServe) -> Iterator[FakeTorchServe]:
    yield _pytorch
    _pytorch.answer, _pytorch.delay_seconds = None, 0.0


@pytest.fixture(scope="module")
def gateway(
    tensorflow: FakeTFServing, _pytorch: FakeTorchServe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": _pytorch.url, "management": _pytorch.url},
        },
        "models": {"mine": {"opaque": True}, "plain": {"variants": ["tensorflow"]}},
    }
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        running.wait_until("/v2/models/mine/ready", 200)
        yield running
    finally:
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def client(gateway: RunningGateway) -> httpx.Client:
    return gateway.client


@pytest.fixture(scope="module")
def channel(gateway: RunningGateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        yield channel


def test_body_and_type_are_passed_on_both_ways(client: httpx.Client, pytorch: FakeTorchServe) -> None:
    body = bytes(range(256))
    answer = client.put("/predictions/mine/1.0", content=body, headers={"content-type": "image/x-own; a=b"})
    assert answer.content == body
    assert answer.headers["content-type"] == "image/x-own; a=b"
    assert (answer.headers["x-duet-variant"], answer.headers["x-duet-version"]) == ("pytorch", "1")
    assert "backend;dur=" in answer.headers["server-timing"]
    assert pytorch.handed_over[-1]["path"] == "/predictions/mine/1.0"


def test_a_body_without_type_goes_to_the_default_version_and_is_answered_without_type(
    client: httpx.Client, pytorch: FakeTorchServe
) -> None:
    answer = client.post("/predictions/mine", content=b"")
    assert (answer.status_code, answer.content) == (200, b"")
    assert "content-type" not in answer.headers
    assert "Content-Type" not in pytorch.handed_over[-1]["headers"]
    assert answer.headers["x-duet-version"] == "1"


def test_nothing_else_of_the_request_comes_to_the_server(client: httpx.Client, pytorch: FakeTorchServe) -> None:
    headers = {"authorization": "Bearer of-the-client", "x-own": "1", "content-type": "a/b"}
    assert client.post("/predictions/mine?a=b", content=b"x", headers=headers).status_code == 200
    assert set(pytorch.handed_over[-1]["headers"]) == {"Host", "Content-Type", "Content-Length"}


def test_multipart_keeps_its_boundary(client: httpx.Client) -> None:
    answer = client.post("/predictions/mine@pytorch", files={"data": io.BytesIO(b"abc")})
    parts = multipart.decode(answer.content, answer.headers["content-type"])
    assert bytes(parts["data"].data) == b"abc"


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (201, {"content-type": "text/plain"}, b"made"),
        (409, {"content-type": "text/plain"}, b"own words"),
        failure(418, HANDLER, "no tea"),
        failure(404, HANDLER, "no such user"),
    ],
    ids=["201", "409", "418", "404"],
)
def test_a_status_that_the_handler_chose_comes_back_with_its_body(
    client: httpx.Client, pytorch: FakeTorchServe, status: int, headers: dict[str, str], body: bytes
) -> None:
    pytorch.answer = lambda: (status, headers, body)
    answer = client.post("/predictions/mine", content=b"x")
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers["content-type"] == headers["content-type"]


@pytest.mark.parametrize(
    ("told", "status", "kind", "retry"),
    [
        (failure(503, "ServiceUnavailableException", "no worker"), 429, "ServiceUnavailableException", "1"),
        (failure(503, HANDLER, "Prediction failed"), 500, "InternalServerException", None),
        (failure(500, HANDLER, "Worker died."), 503, "ServiceUnavailableException", "1"),
        (failure(507, HANDLER, "Out of resources"), 503, "ServiceUnavailableException", "1"),
        ((413, {}, b""), 413, "BadRequestException", None),
    ],
    ids=["overload", "exception", "crash", "memory", "too large"],
)
def test_torchserves_own_failures_are_translated(
    gateway: RunningGateway,
    pytorch: FakeTorchServe,
    told: Answer,
    status: int,
    kind: str,
    retry: str | None,
) -> None:
    pytorch.answer = lambda: told
    answer = gateway.client.post("/predictions/mine", content=b"x")
    pytorch.answer = None
    assert (answer.status_code, answer.json()["type"]) == (status, kind)
    assert answer.headers.get("retry-after") == retry
    wait_for(lambda: gateway.client.post("/predictions/mine").status_code == 200, "the model to be called again")


@pytest.mark.parametrize(
    "told",
    [
        failure(400, "InvalidKeyException", "Token Authorization failed"),
        failure(503, "ServiceUnavailableException", 'Model "mine" has no worker to serve inference request.'),
        failure(500, HANDLER, "Worker died."),
        failure(507, HANDLER, "Out of resources"),
        # Each looks for the model again: seconds.
        pytest.param(failure(404, "ModelNotFoundException", "Model not found: mine"), marks=pytest.mark.full),
        (503, {}, b"<html>"),
        (502, {}, b""),
    ],
    ids=["token", "overload", "crash", "memory", "gone", "a mesh", "a proxy"],
)
def test_a_handler_that_hands_back_what_looks_like_torchserves_failure_takes_nothing_from_others(
    gateway: RunningGateway, pytorch: FakeTorchServe, told: Answer
) -> None:
    """The kind: an answer whose status and body a caller may choose is no evidence of what concerns all callers."""
    assert gateway.client.post("/predictions/mine", content=b"good").status_code == 200
    pytorch.poison = lambda body: told if body == b"bad" else None
    before = gateway.admin.get("/metrics").text
    for _ in range(12):
        assert gateway.client.post("/predictions/mine", content=b"bad").status_code >= 400
        assert gateway.client.post("/predictions/mine", content=b"good").content == b"good"
    for _ in range(8):
        gateway.client.post("/predictions/mine", content=b"bad")
    assert gateway.client.post("/predictions/mine", content=b"good").content == b"good"
    after = gateway.admin.get("/metrics").text
    told_of = re.compile(r"^duet_(?:ejections_total|ejected_endpoints|limit)\{.*$", re.MULTILINE)
    assert told_of.findall(after) == told_of.findall(before)
    pytorch.poison = lambda body: None


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("mine/x", b"", 404, "ModelVersionNotFoundException"),
        ("mine/3", b"", 404, "ModelVersionNotFoundException"),
        ("mine@tensorflow", b"", 404, "ModelNotFoundException"),
        ("mine", b" " * ((16 << 20) + 1), 413, "BadRequestException"),
    ],
    ids=["no version", "unknown version", "other variant", "too large"],
)
def test_bad_calls_are_refused_in_torchserves_shape(
    client: httpx.Client, path: str, body: bytes, status: int, kind: str
) -> None:
    answer = client.post(f"/predictions/{path}", content=body)
    assert (answer.status_code, answer.json()["type"]) == (status, kind)


def test_a_deadline_holds(client: httpx.Client, pytorch: FakeTorchServe) -> None:
    pytorch.delay_seconds = 0.5
    answer = client.post("/predictions/mine", content=b"x", headers={"x-duet-timeout-ms": "50"})
    assert (answer.status_code, answer.json()["type"]) == (504, "RequestTimeoutException")


def test_options_says_that_anything_goes(client: httpx.Client) -> None:
    document = client.options("/predictions/mine").json()
    assert list(document["paths"]["/predictions/mine"]["post"]["requestBody"]["content"]) == ["*/*"]


def test_metrics_count_it_as_any_other(gateway: RunningGateway, pytorch: FakeTorchServe) -> None:
    gateway.client.post("/predictions/mine/2", content=b"x")
    pytorch.answer = lambda: failure(404, HANDLER, "no such user")
    gateway.client.post("/predictions/mine/2", content=b"x")
    text = gateway.admin.get("/metrics").text
    for code in ("OK", "NOT_FOUND"):
        labels = f'code="{code}",front="torchserve_rest",model="mine",variant="pytorch",version="2"'
        assert f"duet_requests_total{{{labels}}} 1.0" in text, text


@pytest.mark.parametrize("call", ["Predictions", "StreamPredictions"])
def test_over_grpc_the_handler_finds_its_inputs_by_name(
    channel: grpc.Channel, pytorch: FakeTorchServe, call: str
) -> None:
    """In one multipart body, each a file of bytes."""
    kind = channel.unary_stream if call.startswith("Stream") else channel.unary_unary
    stub = kind(
        SERVICE + call,
        request_serializer=pb.PredictionsRequest.SerializeToString,
        response_deserializer=pb.PredictionResponse.FromString,
    )
    request = pb.PredictionsRequest(model_name="mine", model_version="2.0", sequence_id="7")
    request.input["data"], request.input["größe"] = b"\x00\r\n--", b""
    answered = stub(request)
    (answer,) = answered if call.startswith("Stream") else [answered]
    assert answer.sequence_id == "7"
    seen = pytorch.handed_over[-1]
    assert (seen["path"], seen["body"]) == ("/predictions/mine/2", answer.prediction)
    parts = multipart.decode(seen["body"], seen["headers"]["Content-Type"])
    found = {name: (part.content_type, bytes(part.data)) for name, part in parts.items()}
    octets = "application/octet-stream"
    assert found == {"data": (octets, b"\x00\r\n--"), "größe": (octets, b"")}


@pytest.mark.parametrize(
    ("told", "code", "text"),
    [
        (failure(404, HANDLER, "no such user"), "NOT_FOUND", "no such user"),
        (failure(418, HANDLER, "no tea"), "INVALID_ARGUMENT", "no tea"),
        ((429, {}, b"slow down"), "RESOURCE_EXHAUSTED", "slow down"),
        (failure(503, "ServiceUnavailableException", "no worker"), "RESOURCE_EXHAUSTED", "no worker free"),
    ],
    ids=["404", "418", "429", "overload"],
)
def test_over_grpc_a_status_becomes_a_code(
    channel: grpc.Channel, pytorch: FakeTorchServe, told: Answer, code: str, text: str
) -> None:
    pytorch.answer = lambda: told
    stub = channel.unary_unary(
        SERVICE + "Predictions", request_serializer=pb.PredictionsRequest.SerializeToString, response_deserializer=bytes
    )
    with pytest.raises(grpc.RpcError) as caught:
        stub(pb.PredictionsRequest(model_name="mine", input={"data": b"x"}))
    assert caught.value.code().name == code
    assert text in caught.value.details()
    trailing = dict(caught.value.trailing_metadata())
    assert trailing["x-duet-variant"] == "pytorch"
    assert trailing.get("retry-after") == ("1" if code == "RESOURCE_EXHAUSTED" else None)


def test_other_dialects_say_how_to_call_it(
    client: httpx.Client, channel: grpc.Channel, gateway: RunningGateway
) -> None:
    """A clear error, in the dialect's own shape: it has no tensors."""
    says = "call it as TorchServe is called: POST /predictions/mine"
    entry = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    for path, body in [
        ("/v2/models/mine/infer", {"inputs": [entry]}),
        ("/v1/models/mine:predict", {"instances": [1]}),
        ("/v1/models/mine:classify", {"examples": [{"x": 1.0}]}),
    ]:
        answer = client.post(path, json=body)
        assert (answer.status_code, says in answer.json()["error"]) == (400, True), path
    raw = client.post("/v2/models/mine/infer", content=b"x", headers={"Inference-Header-Content-Length": "0"})
    assert (raw.status_code, says in raw.json()["error"]) == (400, True)

    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    with (
        triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc_port}") as v2,
        pytest.raises(triton.InferenceServerException, match="POST /predictions/mine"),
    ):
        v2.infer("mine", [tensor])
    predict = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict", request_serializer=tf_pb.PredictRequest.SerializeToString
    )
    with pytest.raises(grpc.RpcError) as caught:
        predict(tf_pb.PredictRequest(model_spec=tf_pb.ModelSpec(name="mine")))
    assert (caught.value.code(), says in caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_it_is_ready_and_listed_though_it_declares_nothing(client: httpx.Client, gateway: RunningGateway) -> None:
    metadata = client.get("/v2/models/mine").json()
    assert metadata == {
        "name": "mine",
        "versions": ["1", "2"],
        "platform": "torchserve_handler",
        "inputs": [],
        "outputs": [],
    }
    index = client.post("/v2/repository/index", content=b"{}").json()
    assert {"name": "mine", "version": "2", "state": "READY", "reason": ""} in index
    assert client.get("/v1/models/mine").json()["model_version_status"][0]["state"] == "AVAILABLE"
    signatures = client.get("/v1/models/mine/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert signatures == {}
    assert client.get("/v2/models/mine/config").status_code == 200


def test_without_the_setting_such_a_model_is_not_ready_and_says_why(client: httpx.Client) -> None:
    """Found at the server, and not configured: a handler that tells no signature cannot be guessed."""
    answer = client.post("/predictions/other", content=b"x")
    assert answer.status_code == 503
    assert "does not describe its signature" in json.loads(answer.content)["message"]
