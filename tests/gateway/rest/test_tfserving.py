"""TensorFlow Serving's REST in front of the real gateway process, before servers of both frameworks."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.transports import REST, Served, serving

LIMIT = 100_000
VARIANTS = ("tensorflow", "pytorch")
STATUS_OK = {"error_code": "OK", "error_message": ""}


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"double": [1, 3], "lenient": [1]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"double": ["3.0", "1.0"], "lenient": ["1"]})
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
        "default_deadline_seconds": 0.5,
    }
    ready = [f"{model}@{variant}" for model in ("double", "lenient") for variant in VARIANTS]
    with serving(request.param, settings, tmp_path_factory.mktemp("gateway"), *ready) as running:
        yield running


def post(gateway: Served, path: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return gateway.client.post(f"/v1/models/{path}", content=content, headers=headers)


def error(response: httpx.Response) -> str:
    """The text of an error in TensorFlow Serving's shape."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    return str(body["error"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_documentations_own_call_works_for_both_frameworks(gateway: Served, variant: str) -> None:
    """Shape [3] to an input declared (-1, 1), as in g3doc/docker.md; the answer has the client's shape again."""
    answer = post(gateway, f"double@{variant}:predict", {"instances": [1.0, 2.0, 5.0]})
    assert answer.status_code == 200, answer.text
    assert answer.content == b'{"predictions":[2.0,4.0,10.0]}'
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-duet-variant"] == variant
    assert answer.headers["x-duet-version"] == "3"
    assert "decode" in answer.headers["server-timing"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"instances": [[1], [2]]}, {"predictions": [[2.0], [4.0]]}),
        ({"instances": [{"x": [1]}, {"x": [2]}]}, {"predictions": [[2.0], [4.0]]}),
        ({"inputs": [[1], [2]]}, {"outputs": [[2.0], [4.0]]}),
        ({"inputs": {"x": [[1]]}}, {"outputs": [[2.0]]}),
        ({"inputs": [1, 2]}, {"outputs": [2.0, 4.0]}),
        ({"inputs": 2}, {"outputs": 4.0}),
        ({"inputs": []}, {"outputs": []}),
        ({"instances": [[0.1]] * 64}, {"predictions": [[0.2]] * 64}),
        (b'{"instances": [1]} and more', {"predictions": [2.0]}),
        (b'{"instances": [1], "instances": [9]}', {"predictions": [2.0]}),
        ({"signature_name": "serving_default", "instances": [1]}, {"predictions": [2.0]}),
    ],
)
def test_rows_and_columns(gateway: Served, variant: str, body: Any, expected: Any) -> None:
    answer = post(gateway, f"double@{variant}:predict", body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == expected


def test_both_variants_answer_the_same_bytes(gateway: Served) -> None:
    values = [0.1, 1e-40, 123456.789, -0.0, 16777216, 3e37]
    answers = {post(gateway, f"double@{variant}:predict", {"instances": values}).content for variant in VARIANTS}
    (answer,) = answers
    doubled = np.array(orjson.loads(answer)["predictions"], np.float32)
    assert doubled.tobytes() == (2 * np.array(values, np.float32)).tobytes()


def test_each_way_to_pin_reaches_the_variant(gateway: Served) -> None:
    for path, headers in (
        ("double@pytorch:predict", {}),
        ("double%40pytorch:predict", {}),
        ("double:predict", {"x-duet-variant": "pytorch"}),
    ):
        answer = post(gateway, path, {"instances": [1]}, **headers)
        assert answer.headers["x-duet-variant"] == "pytorch"
    answer = post(gateway, "double@pytorch:predict", {"instances": [1]}, **{"x-duet-variant": "tensorflow"})
    assert answer.status_code == 400
    assert "several variants" in error(answer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_versions_are_addressable(gateway: Served, variant: str) -> None:
    answer = post(gateway, f"double@{variant}/versions/1:predict", {"instances": [1]})
    assert answer.headers["x-duet-version"] == "1"


def test_nan_goes_through_where_the_models_setting_lets_it(gateway: Served) -> None:
    body = b'{"instances": [NaN, -Infinity, 1]}'
    assert post(gateway, "lenient:predict", body).content == b'{"predictions":[NaN,-Infinity,2.0]}'
    refused = post(gateway, "double:predict", body)
    assert refused.status_code == 400
    assert "NaN or infinity" in error(refused)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        # The order of checks: syntax, object, signature's name, model or label, signature, keys, values.
        ("nope:predict", b"{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        ("nope:predict", b"[]", 400, "JSON Value: [] Is not object"),
        ("nope:predict", {"signature_name": 1}, 400, None),
        ("nope:predict", {}, 404, "Servable not found for request: Latest(nope)"),
        ("double@jax:predict", {}, 404, "Servable not found for request: Latest(double@jax)"),
        ("double/versions/9:predict", {}, 404, "Servable not found for request: Specific(double, 9)"),
        ("double/labels/stable:predict", {}, 400, "Unrecognized servable version label: stable"),
        ("nope/labels/a%20b:predict", {}, 400, "Unrecognized servable version label: a b"),
        (
            "double:predict",
            {"signature_name": "s"},
            400,
            'Serving signature name: "s" not found in signature def',
        ),
        ("double:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        (
            "double:predict",
            {"instances": [1, "x"]},
            400,
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"x\" Type: String "
            "is not of expected type: float",
        ),
        ("double:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("double:predict", {"inputs": [[1, 2]]}, 400, "input 'x': shape [1, 2]; the model takes [-1, 1]"),
        ("absent:predict", {"instances": [1]}, 503, None),
        (f"double/versions/{2**63}:predict", {}, 400, f"Failed to convert version: {2**63} to numeric."),
        ("double:predict", b" " * (LIMIT + 1), 413, None),
        ("double:PREDICT", {}, 400, "Malformed request: POST /v1/models/double:PREDICT"),
        ("double:predict?x=1", {}, 400, "Malformed request: POST /v1/models/double:predict?x=1"),
        ("double/versions/x:predict", {}, 400, "Malformed request: POST /v1/models/double/versions/x:predict"),
        ("double", {}, 400, "Malformed request: POST /v1/models/double"),
        ("nope:classify", {"examples": []}, 400, None),
        ("nope:classify", {"examples": [{}]}, 404, "Servable not found for request: Latest(nope)"),
        (
            "double:classify",
            {"examples": [{}], "signature_name": "s"},
            400,
            "No signature was found with the name: s",
        ),
    ],
)
def test_errors_come_in_the_servers_order_words_and_status(
    gateway: Served, path: str, body: Any, status: int, text: str | None
) -> None:
    answer = post(gateway, path, body)
    assert answer.status_code == status
    assert error(answer)
    assert text is None or error(answer) == text


def test_a_gzipped_body_is_taken(gateway: Served) -> None:
    answer = post(gateway, "double:predict", gzip.compress(b'{"instances": [1]}'), **{"content-encoding": "gzip"})
    assert answer.json() == {"predictions": [2.0]}
    unknown = post(gateway, "double:predict", b"x", **{"content-encoding": "br"})
    assert (unknown.status_code, unknown.headers["accept-encoding"]) == (501, "gzip, deflate")


def test_an_error_tells_whose_version_it_is_about(gateway: Served) -> None:
    answer = post(gateway, "double@pytorch:predict", {"instances": ["x"]})
    assert (answer.status_code, answer.headers["x-duet-variant"], answer.headers["x-duet-version"]) == (
        400,
        "pytorch",
        "3",
    )


def test_overload_is_429_with_retry_after(gateway: Served, pytorch: FakeTorchServe) -> None:
    pytorch.answer = lambda: failure(503, "ServiceUnavailableException", "full")
    try:
        answer = post(gateway, "double@pytorch:predict", {"instances": [1]})
    finally:
        pytorch.answer = None
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_a_slow_server_is_504(gateway: Served, pytorch: FakeTorchServe) -> None:
    pytorch.delay_seconds = 1
    try:
        answer = post(gateway, "double@pytorch:predict", {"instances": [1]})
    finally:
        pytorch.delay_seconds = 0
    assert answer.status_code == 504
    assert "deadline" in error(answer)


def test_classify_and_regress_by_a_models_signatures(gateway: Served) -> None:
    body = {"signature_name": "classify", "context": {"x": 0.25}, "examples": [{"x": 1.0}, {}]}
    answer = post(gateway, "double:classify", body)
    assert answer.json() == {"results": [[["yes", 1.0], ["no", 0.0]], [["yes", 0.25], ["no", 0.75]]]}
    assert answer.headers["x-duet-variant"] == "tensorflow"
    regressed = post(gateway, "double/versions/1:regress", {**body, "signature_name": "regress"})
    assert regressed.json() == {"results": [2.0, 0.5]}
    assert regressed.headers["x-duet-version"] == "1"


@pytest.mark.parametrize(("verb", "kind"), [("classify", "classification"), ("regress", "regression")])
def test_a_model_without_such_a_signature_says_so(gateway: Served, verb: str, kind: str) -> None:
    answer = post(gateway, f"double@pytorch:{verb}", {"examples": [{"x": 1.0}]})
    assert answer.status_code == 400
    assert f"No {kind} inputs found in SignatureDef" in error(answer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_status_lists_versions_newest_first_and_tells_kserve_whether_it_is_ready(gateway: Served, variant: str) -> None:
    entries = [{"version": version, "state": "AVAILABLE", "status": STATUS_OK} for version in ("3", "1")]
    answer = gateway.client.get(f"/v1/models/double@{variant}")
    assert answer.json() == {"model_version_status": entries, "ready": True}
    assert answer.headers["x-duet-variant"] == variant
    one = gateway.client.get(f"/v1/models/double@{variant}/versions/1")
    assert one.json()["model_version_status"] == entries[1:]
    # A label is ignored, even one that nobody knows.
    assert gateway.client.get(f"/v1/models/double@{variant}/labels/x").json() == answer.json()


@pytest.mark.parametrize("variant", VARIANTS)
def test_metadata_describes_the_signatures_of_both_frameworks(gateway: Served, variant: str) -> None:
    answer = gateway.client.get(f"/v1/models/double@{variant}/metadata")
    body = answer.json()
    assert body["model_spec"] == {"name": f"double@{variant}", "signature_name": "", "version": "3"}
    definition = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    dims = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
    info = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": dims, "unknown_rank": False}}
    # The SavedModel's are its own; of a PyTorch model there is none, and one is made.
    x, y = ("t:0", "t:0") if variant == "tensorflow" else ("x:0", "y:0")
    assert definition == {
        "inputs": {"x": {**info, "name": x}},
        "outputs": {"y": {**info, "name": y}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert answer.headers["x-duet-version"] == "3"


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/double/versions/9", 404, "Could not find version 9 of model double"),
        ("GET", "/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("GET", "/v1/models/double/labels/x/metadata", 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/x", 400, "Malformed request: GET /v1/x"),
        ("PUT", "/v1/models/double", 400, "Malformed request: PUT /v1/models/double"),
    ],
)
def test_what_cannot_be_described(gateway: Served, method: str, path: str, status: int, text: str) -> None:
    answer = gateway.client.request(method, path)
    assert (answer.status_code, error(answer)) == (status, text)


def test_a_model_whose_server_lacks_it_is_unavailable(gateway: Served) -> None:
    assert gateway.client.get("/v1/models/absent").status_code == 503


def test_options_answers_a_preflight(gateway: Served) -> None:
    """Of a page of its own; a page of another website is refused before (`gateway.rest.fence`)."""
    own = str(gateway.client.base_url).rstrip("/")
    from_a_page = gateway.client.options("/v1/models/double:predict", headers={"origin": own})
    assert (from_a_page.status_code, from_a_page.content) == (200, b"")
    elsewhere = gateway.client.options("/v1/models/double:predict", headers={"origin": "https://x.example"})
    assert elsewhere.status_code == 403
    assert gateway.client.options("/v1/models/double:predict").status_code == 400


def test_the_models_are_listed_as_kserve_lists_them(gateway: Served) -> None:
    """Ready or not, as ``GET /v2/models`` lists them; TensorFlow Serving itself has no such call and answers 400."""
    for path in ("/v1/models", "/v1/models/"):
        answer = gateway.client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {"models": ["absent", "double", "lenient"]}
        assert answer.json() == gateway.client.get("/v2/models").json()


def test_kserves_clients_find_the_gateway_alive(gateway: Served) -> None:
    assert gateway.client.get("/").json() == {"status": "alive"}


def test_inferences_count_in_metrics_and_descriptions_do_not(gateway: Served) -> None:
    def lines() -> list[str]:
        text = gateway.admin.get("/metrics").text
        return [line for line in text.splitlines() if line.startswith("duet_requests") and "tfserving_rest" in line]

    post(gateway, "double@pytorch:predict", {"instances": [1]})
    before = lines()
    labels = 'code="OK",front="tfserving_rest",model="double",variant="pytorch",version="3"'
    assert any(line.startswith(f"duet_requests_total{{{labels}}}") for line in before)
    assert 'duet_requests_in_flight{front="tfserving_rest"} 0.0' in before
    for path in ("double", "double/metadata", "nope"):
        gateway.client.get(f"/v1/models/{path}")
    assert lines() == before
