"""A signature other than the default is chosen in v2 and in TorchServe's dialect, and reads the request's body.

The kind: every way in that knows no signatures of its own (v2 as JSON, in binary and raw; TorchServe's JSON, raw bytes,
multipart and the v2 envelope), for inference and for what describes the model. The name never reaches a server as a
parameter, and what nobody has is refused with the names that there are.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.protos import tfserving_pb2 as pb
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.transports import REST, Served, serving

KNOWN = "the model's signatures are classify, regress, serving_default"
HEADER = "x-duet-signature"


def example(x: float) -> bytes:
    return pb.Example(features={"feature": {"x": {"float_list": {"value": [x]}}}}).SerializeToString()


#: What the signature ``regress`` reads; no UTF-8, so that JSON needs Base64.
EXAMPLE = example(1.5)


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"double": [1]})
    yield fake
    fake.close()


@pytest.fixture(scope="module", params=REST)
def gateway(
    request: pytest.FixtureRequest, tensorflow: FakeTFServing, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    pytorch = FakeTorchServe({"double": ["1.0"], "own": ["1.0"]})
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}, "own": {"variants": ["pytorch"], "opaque": True}},
    }
    folder = tmp_path_factory.mktemp("gateway")
    try:
        with serving(request.param, settings, folder, "double@tensorflow", "double@pytorch", "own") as running:
            yield running
    finally:
        pytorch.close()


def v2(parameters: dict[str, Any] | None = None, **of_input: Any) -> dict[str, Any]:
    encoded = b64encode(EXAMPLE).decode()
    inputs = {"name": "inputs", "shape": [1], "datatype": "BYTES", "data": [encoded], **of_input}
    return {"inputs": [{"parameters": {"content_encoding": "base64"}, **inputs}], "parameters": parameters or {}}


def post(gateway: Served, path: str, body: Any, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return gateway.client.post(path, content=content, headers=given)


def test_a_v2_request_names_its_signature(gateway: Served, tensorflow: FakeTFServing) -> None:
    answer = post(gateway, "/v2/models/double/infer", v2({"signature_name": "regress"}))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"] == [{"name": "outputs", "datatype": "FP32", "shape": [1], "data": [3.0]}]
    sent = tensorflow.predicted[-1]
    assert sent.model_spec.signature_name == "regress"
    assert list(sent.inputs) == ["inputs"]


@pytest.mark.parametrize("variant", ["tensorflow", "pytorch"])
@pytest.mark.parametrize("name", ["serving_default", "", None])
def test_the_default_s_own_name_chooses_the_default(gateway: Served, variant: str, name: str | None) -> None:
    parameters = {} if name is None else {"signature_name": name}
    x = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [4]}
    answer = post(gateway, f"/v2/models/double@{variant}/infer", {"inputs": [x], "parameters": parameters})
    assert answer.json()["outputs"][0]["data"] == [8.0]
    answer = post(gateway, f"/predictions/double@{variant}", {"x": [[4]]}, **({HEADER: name} if name else {}))
    assert answer.json() == [[8.0]]


@pytest.mark.parametrize("named", ["by the header", "by both"])
def test_a_v2_request_s_header_names_its_signature_too(gateway: Served, named: str) -> None:
    parameters = {"signature_name": "regress"} if named == "by both" else {}
    answer = post(gateway, "/v2/models/double/infer", v2(parameters), **{HEADER: "regress"})
    assert answer.json()["outputs"][0]["data"] == [3.0]


def test_a_raw_v2_body_is_read_by_the_signature_that_the_header_names(gateway: Served) -> None:
    raw = {"inference_header_content_length": "0", HEADER: "regress"}
    answer = post(gateway, "/v2/models/double/infer", EXAMPLE, **raw)
    assert answer.status_code == 200, answer.text
    assert b'"name":"outputs"' in answer.content
    refused = post(gateway, "/v2/models/double/infer", EXAMPLE, **{**raw, HEADER: "nope"})
    assert (refused.status_code, "nope" in refused.text) == (400, True)
    assert "classify, regress, serving_default" in refused.text


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (EXAMPLE, {"content_type": "application/octet-stream"}),
        (EXAMPLE, {}),
        (
            b'--b\r\nContent-Disposition: form-data; name="inputs"; filename="e"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n" + EXAMPLE + b"\r\n--b--\r\n",
            {"content_type": "multipart/form-data; boundary=b"},
        ),
        (v2(), {"content_type": "application/json"}),
    ],
    ids=["raw bytes", "untyped bytes", "multipart", "v2"],
)
def test_torchserve_s_header_names_the_signature_that_reads_the_body(
    gateway: Served, tensorflow: FakeTFServing, body: Any, headers: dict[str, str]
) -> None:
    answer = post(gateway, "/predictions/double", body, **headers, **{HEADER: "regress"})
    assert answer.status_code == 200, answer.text
    assert b"3.0" in answer.content
    assert tensorflow.predicted[-1].model_spec.signature_name == "regress"
    assert post(gateway, "/predictions/double", body, **headers).status_code == 400


def test_a_v2_envelope_in_torchserve_s_dialect_names_it_itself(gateway: Served) -> None:
    answer = post(gateway, "/predictions/double", v2({"signature_name": "regress"}), content_type="application/json")
    assert answer.json()["outputs"][0]["data"] == [3.0]


@pytest.mark.parametrize(
    ("path", "body", "headers", "text"),
    [
        ("/v2/models/double/infer", v2({"signature_name": "nope"}), {}, KNOWN),
        ("/v2/models/double/infer", v2(), {HEADER: "nope"}, KNOWN),
        ("/v2/models/double@pytorch/infer", v2({"signature_name": "regress"}), {}, "signatures are serving_default"),
        ("/v2/models/double/infer", v2({"signature_name": 7}), {}, "'signature_name' must be a string"),
        ("/v2/models/double/infer", v2({"signature_name": "regress"}), {HEADER: "classify"}, "several signatures"),
        ("/predictions/double", {"x": [[1]]}, {HEADER: "nope"}, KNOWN),
        ("/predictions/double@pytorch", {"x": [[1]]}, {HEADER: "regress"}, "signatures are serving_default"),
        ("/predictions/double", v2({"signature_name": "regress"}), {HEADER: "classify"}, "several signatures"),
        ("/predictions/own", {"x": [[1]]}, {HEADER: "regress"}, "has no signatures"),
    ],
)
def test_a_signature_that_is_not_there_is_refused_with_those_that_are(
    gateway: Served, path: str, body: Any, headers: dict[str, str], text: str
) -> None:
    answer = post(gateway, path, body, **headers)
    assert answer.status_code == 400
    assert text in answer.text


def test_the_signature_that_is_named_is_described(gateway: Served) -> None:
    described = gateway.client.get("/v2/models/double", headers={HEADER: "regress"}).json()
    assert described["inputs"] == [{"name": "inputs", "datatype": "BYTES", "shape": [-1]}]
    assert described["outputs"] == [{"name": "outputs", "datatype": "FP32", "shape": [-1]}]
    assert gateway.client.get("/v2/models/double").json()["inputs"][0]["name"] == "x"
    refused = gateway.client.get("/v2/models/double", headers={HEADER: "nope"})
    assert (refused.status_code, KNOWN in refused.text) == (400, True)
    document = gateway.client.options("/predictions/double", headers={HEADER: "regress"})
    assert (document.status_code, '"inputs"' in document.text) == (200, True)
    assert gateway.client.options("/predictions/double", headers={HEADER: "nope"}).status_code == 400
