"""The REST contract: routes, order of checks, statuses, texts. Runs as well against the real server."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving.embedded.process import Server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.rest_port}", timeout=20) as made:
        yield made


def post(client: httpx.Client, model: str, body: Any, verb: str = "predict") -> httpx.Response:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(f"/v1/models/{model}:{verb}", content=content)


def error(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json()["error"]


ANSWERS = {
    "the documentation's own example": ("half", '{"instances": [1.0, 2.0, 5.0]}', [3.5, 4.0, 5.5]),
    "a version": ("half/versions/1", '{"instances": [1.0]}', [2.5]),
    "a label": ("half/labels/stable", '{"instances": [1.0]}', [2.5]),
    "any case in the path": ("half/VERSIONS/1", '{"instances": [1.0]}', [2.5]),
    "an escaped name": ("h%61lf", '{"instances": [1.0]}', [3.5]),
    "rows with their dimension": ("half", '{"instances": [[1.0], [2.0]]}', [[3.5], [4.0]]),
    "integers to a float": ("half", '{"instances": [1, 2]}', [3.5, 4.0]),
    "a signature": ("types", '{"signature_name": "int64", "instances": [9007199254740993]}', [9007199254740993]),
    "an empty row": ("half", '{"instances": [[]]}', [[]]),
    "uint64 to its end": ("types", '{"signature_name": "uint64", "instances": [18446744073709551615]}', [2**64 - 1]),
    "int8 wraps": ("types", '{"signature_name": "int8", "instances": [300]}', [44]),
    "uint8 wraps": ("types", '{"signature_name": "uint8", "instances": [-1]}', [255]),
    "booleans": ("types", '{"signature_name": "bool", "instances": [true, false]}', [True, False]),
    "doubles": ("types", '{"signature_name": "float64", "instances": [0.1]}', [0.1]),
    "float32 overflows to infinity": ("half", '{"instances": [1e39]}', [float("inf")]),
    "text after the end": ("half", '{"instances": [1.0]} and more', [3.5]),
    "the first of equal keys": ("half", '{"instances": [1.0], "instances": ["x"]}', [3.5]),
    "a byte order mark": ("half", '\ufeff{"instances": [1.0]}', [3.5]),
    "unknown keys": ("half", '{"instances": [1.0], "other": 1}', [3.5]),
    "two inputs": (
        "sums",
        '{"instances": [{"a": [1, 2], "b": [3, 4]}]}',
        [{"difference": [-2, -2], "sum": [4.0, 6.0]}],
    ),
    "one input by name": ("half", '{"instances": [{"x": 1.0}]}', [3.5]),
    "strings": ("text", '{"signature_name": "plain", "instances": ["a", {"b64": "YmM="}]}', ["a", "bc"]),
    "base64 without padding": ("text", '{"signature_name": "plain", "instances": [{"b64": "YmM"}]}', ["bc"]),
    "bytes": ("text", '{"signature_name": "bytes", "instances": ["a"]}', [{"b64": "YQ=="}]),
    "escapes": ("text", '{"signature_name": "plain", "instances": ["\\u00e4\\n\\""]}', ['ä\n"']),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_rows_are_answered(client: httpx.Client, case: str) -> None:
    model, body, expected = ANSWERS[case]
    answer = post(client, model, body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.content) == {"predictions": expected}


COLUMNS = {
    "a list": ("half", '{"inputs": [1.0, 2.0]}', [3.5, 4.0]),
    "a scalar": ("half", '{"inputs": 1.0}', 3.5),
    "an empty list": ("half", '{"inputs": []}', []),
    "one input by name": ("half", '{"inputs": {"x": [[1.0]]}}', [[3.5]]),
    "surplus names are ignored": ("half", '{"inputs": {"x": [1.0], "z": 1}}', [3.5]),
    "two inputs": (
        "sums",
        '{"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}',
        {"difference": [[-2, -2]], "sum": [[4.0, 6.0]]},
    ),
    "base64": ("text", '{"signature_name": "bytes", "inputs": {"b64": "/wA="}}', {"b64": "/wA="}),
    "an output without batch": (
        "sums",
        '{"signature_name": "total", "inputs": {"a": [[1, 2]], "b": [[3, 4]]}}',
        3.0,
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_are_answered(client: httpx.Client, case: str) -> None:
    model, body, expected = COLUMNS[case]
    answer = post(client, model, body)
    assert (answer.status_code, json.loads(answer.content)) == (200, {"outputs": expected})


def test_strings_go_out_as_they_came_in(client: httpx.Client) -> None:
    """Even where they are no UTF-8."""
    answer = post(client, "text", b'{"signature_name": "plain", "instances": ["\xff\xc3\xa4"]}')
    assert answer.content == b'{\n    "predictions": ["\xff\xc3\xa4"\n    ]\n}'


LAYOUTS = {
    "rows": ("half", '{"instances": [1.0, 2.0]}', '{\n    "predictions": [3.5, 4.0\n    ]\n}'),
    "rows of lists": ("half", '{"instances": [[1.0], [2.0]]}', '{\n    "predictions": [[3.5], [4.0]\n    ]\n}'),
    "objects": (
        "sums",
        '{"instances": [{"a": [1, 2], "b": [3, 4]}, {"a": [1, 2], "b": [3, 4]}]}',
        '{\n    "predictions": [\n'
        '        {\n            "difference": [-2, -2],\n            "sum": [4.0, 6.0]\n        },\n'
        '        {\n            "difference": [-2, -2],\n            "sum": [4.0, 6.0]\n        }\n    ]\n}',
    ),
    "columns": ("half", '{"inputs": [[1.0]]}', '{\n    "outputs": [\n        [\n            3.5\n        ]\n    ]\n}'),
    "a value": ("half", '{"inputs": 1.0}', '{\n    "outputs": 3.5\n}'),
    "decimals": (
        "types",
        '{"signature_name": "float32", "instances": [0.1, 1234567, 9e6, 3e-5, 0.3333333333, 16777217, -0.0]}',
        '{\n    "predictions": [0.1, 1234567.0, 9e+06, 3e-05, 0.333333343, 16777216.0, -0.0\n    ]\n}',
    ),
    "doubles": (
        "types",
        '{"signature_name": "float64", "instances": [0.1, 0.30000000000000004, 1e300]}',
        '{\n    "predictions": [0.1, 0.30000000000000004, 1e+300\n    ]\n}',
    ),
    "not finite": (
        "types",
        '{"signature_name": "reciprocal", "instances": [0.0, -0.0, NaN, Infinity, -Inf]}',
        '{\n    "predictions": [Infinity, -Infinity, NaN, 0.0, -0.0\n    ]\n}',
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_layout_is_rapidjsons(client: httpx.Client, case: str) -> None:
    model, body, expected = LAYOUTS[case]
    assert post(client, model, body).text == expected


SUMS_ROW = '{"instances": [{"a": [1, 2], "b": [3, 4]}, %s]}'
ROW = "Failed to process element: %d of 'instances' list. Error: INVALID_ARGUMENT: %s"
REFUSED = {
    "nothing": ("half", "", 400, "JSON Parse error: The document is empty"),
    "no JSON": ("half", "{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    "a number too big": (
        "half",
        '{"instances": [1e400]}',
        400,
        "JSON Parse error: Number too big to be stored in double. at offset: 15",
    ),
    "a lone surrogate": ("half", '{"instances": ["\\ud800"]}', 400, "JSON Parse error: "),
    "no object": ("half", "[1]", 400, "JSON Value: [\n    1\n] Is not object"),
    "a name that is no string": ("half", '{"signature_name": 1}', 400, "'signature_name' key must be a string value."),
    "bad JSON to an unknown model": ("nope", "{", 400, "JSON Parse error: "),
    "unknown model": ("nope", "{}", 404, "Servable not found for request: Latest(nope)"),
    "unknown version": ("half/versions/9", "{}", 404, "Servable not found for request: Specific(half, 9)"),
    "unknown label": ("half/labels/nope", "{}", 400, "Unrecognized servable version label: nope"),
    "unknown signature": (
        "half",
        '{"signature_name": "s"}',
        400,
        'Serving signature name: "s" not found in signature def',
    ),
    "neither key": ("half", "{}", 400, "Missing 'inputs' or 'instances' key"),
    "both keys": (
        "half",
        '{"inputs": [1.0], "instances": [1.0]}',
        400,
        "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
    ),
    "no list": ("half", '{"instances": 1}', 400, "Excepting 'instances' to be an list/array"),
    "an empty list": ("half", '{"instances": []}', 400, "No values in 'instances' array"),
    "a string to a float": (
        "half",
        '{"instances": [1.0, "x"]}',
        400,
        ROW % (1, 'JSON Value: "x" Type: String is not of expected type: float'),
    ),
    "true to a float": (
        "half",
        '{"instances": [true]}',
        400,
        ROW % (0, "JSON Value: true Type: True is not of expected type: float"),
    ),
    "null": (
        "half",
        '{"instances": [null]}',
        400,
        ROW % (0, "JSON Value: null Type: Null is not of expected type: float"),
    ),
    "decimal to an integer": (
        "types",
        '{"signature_name": "int32", "instances": [7.0]}',
        400,
        ROW % (0, "JSON Value: 7.0 Type: Number is not of expected type: int32"),
    ),
    "exponent to an integer": (
        "types",
        '{"signature_name": "int64", "instances": [2e3]}',
        400,
        "of expected type: int64",
    ),
    "out of int32": ("types", '{"signature_name": "int8", "instances": [2147483648]}', 400, "of expected type: int8"),
    "out of int64": (
        "types",
        '{"signature_name": "int64", "instances": [9223372036854775808]}',
        400,
        "of expected type: int64",
    ),
    "negative to uint32": ("types", '{"signature_name": "uint32", "instances": [-1]}', 400, "of expected type: uint32"),
    "one to a bool": ("types", '{"signature_name": "bool", "instances": [1]}', 400, "of expected type: bool"),
    "number to a string": ("text", '{"instances": [1]}', 400, "of expected type: string"),
    "half in rows": (
        "types",
        '{"signature_name": "float16", "instances": [1.0]}',
        400,
        "Error: UNIMPLEMENTED: Conversion of JSON Value: 1.0 to type: half",
    ),
    "half in columns": (
        "types",
        '{"signature_name": "float16", "inputs": [1.0]}',
        501,
        "Conversion of JSON Value: 1.0 to type: half",
    ),
    "bfloat16": ("types", '{"signature_name": "bfloat16", "inputs": 1}', 501, "JSON Value: 1 to type: bfloat16"),
    "uint16": ("types", '{"signature_name": "uint16", "inputs": [1]}', 501, "JSON Value: 1 to type: uint16"),
    "rows of other sizes": (
        "half",
        '{"instances": [[1.0, 2.0], [1.0]]}',
        400,
        ROW % (1, "Expecting tensor size: 2 but got: 1"),
    ),
    "rows of other shapes": (
        "half",
        '{"instances": [[1.0, 2.0], [[1.0, 2.0]]]}',
        400,
        ROW % (1, "Expecting shape [2] but got: [1,2]"),
    ),
    "ragged row": (
        "half",
        '{"instances": [[[1.0, 2.0], [1.0]]]}',
        400,
        ROW % (0, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ),
    "ragged column": (
        "half",
        '{"inputs": [[1.0, 2.0], [1.0]]}',
        400,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    "too deep": ("half", '{"inputs": [1.0, [2.0]]}', 400, "Encountered list at unexpected level: 1 expected < 1"),
    "too shallow": (
        "half",
        '{"inputs": [[1.0], 2.0]}',
        400,
        "JSON Value: 2.0 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    "plain rows to two inputs": (
        "sums",
        '{"instances": [1.0]}',
        400,
        "instances is a plain list, but expecting list",
    ),
    "plain column to two inputs": ("sums", '{"inputs": [1.0]}', 400, "inputs is a plain value/list, but expecting an"),
    "a missing key": ("sums", SUMS_ROW % '{"a": [1, 2]}', 400, "keys must be equal to: a,b"),
    "a surplus key": (
        "sums",
        SUMS_ROW % '{"a": [1, 2], "b": [3, 4], "c": 1}',
        400,
        "JSON object: does not have named input: c",
    ),
    "a list among objects": ("sums", SUMS_ROW % "[1]", 400, "Expecting object but got list at item 1 of input list"),
    "an object among values": (
        "half",
        '{"instances": [1.0, {"x": 1.0}]}',
        400,
        "Expecting value/list but got object at item 1 of input list",
    ),
    "a missing input": ("sums", '{"inputs": {"a": [[1, 2]]}}', 400, "Missing named input: b in 'inputs' object."),
    "bad base64": ("text", '{"instances": [{"b64": "?"}]}', 400, "Unable to base64 decode"),
    "an object that is no base64": (
        "text",
        '{"inputs": ["a", {"b64": 1}]}',
        400,
        "not formatted correctly for base64 data",
    ),
    "rows of an output without batch": (
        "sums",
        '{"signature_name": "total", "instances": [{"a": [1, 2], "b": [3, 4]}]}',
        400,
        "Tensor name: total has no shape information ",
    ),
    "rows of uneven outputs": (
        "sums",
        '{"signature_name": "uneven", "instances": [{"a": [1, 2], "b": [3, 4]}, {"a": [1, 2], "b": [3, 4]}]}',
        400,
        "Tensor name: first has inconsistent batch size: 1 expecting: 2",
    ),
    "brackets without end": ("half", '{"instances": ' + "[" * 100_000, 400, "JSON Parse error: "),
    "deep brackets": ("half", '{"instances": ' + "[" * 100_000 + "]" * 100_000 + "}", 400, ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_has_its_status_and_its_text(client: httpx.Client, case: str) -> None:
    model, body, status, text = REFUSED[case]
    found, told = error(post(client, model, body))
    assert (found, text in told) == (status, True), told


PATHS = {
    "no such verb": ("POST", "/v1/models/half:explain"),
    "a verb in capitals": ("POST", "/v1/models/half:PREDICT"),
    "a query string": ("POST", "/v1/models/half:predict?a=b"),
    "the wrong method": ("GET", "/v1/models/half:predict"),
    "another method": ("DELETE", "/v1/models/half"),
    "a put": ("PUT", "/v1/models/half:predict"),
    "a version that is no number": ("POST", "/v1/models/half/versions/x:predict"),
    "a label in labels' place": ("GET", "/v1/models/half/label/x"),
    "something else": ("GET", "/v1/modelz"),
    "a slash at the end": ("GET", "/v1/models/half/"),
}


@pytest.mark.parametrize("case", PATHS)
def test_other_paths_are_malformed(client: httpx.Client, case: str) -> None:
    method, path = PATHS[case]
    answer = client.request(method, path, content=b"{}" if method != "GET" else None)
    assert error(answer) == (400, f"Malformed request: {method} {path}")


def test_a_version_over_int64_has_no_text(client: httpx.Client) -> None:
    answer = client.get("/v1/models/half/versions/9223372036854775808")
    assert (answer.status_code, answer.content) == (400, b"")


def test_outside_v1_there_is_libevents_page(client: httpx.Client) -> None:
    answer = client.get("/nope")
    assert (answer.status_code, "<H1>Not Found</H1>" in answer.text) == (404, True)


@pytest.mark.parametrize(("origin", "status"), [("https://a.example", 200), ("ftp://a.example", 400), (None, 400)])
def test_a_preflight_needs_an_origin(client: httpx.Client, origin: str | None, status: int) -> None:
    answer = client.options("/v1/models/half:predict", headers={"origin": origin} if origin else {})
    assert (answer.status_code, answer.content) == (status, b"")


def test_gzip_bodies_are_read_and_the_type_does_not_matter(client: httpx.Client) -> None:
    body = gzip.compress(b'{"instances": [1.0]}')
    headers = {"content-encoding": "gzip", "content-type": "text/plain"}
    answer = client.post("/v1/models/half:predict", content=body, headers=headers)
    assert answer.json() == {"predictions": [3.5]}


def test_status_lists_versions_newest_first_and_ignores_labels(client: httpx.Client) -> None:
    entries = [
        {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for version in ("2", "1")
    ]
    for path in ("half", "half/labels/nope", "half/METADATA"):
        answer = client.get(f"/v1/models/{path}")
        assert (answer.status_code, answer.json()) == (200, {"model_version_status": entries})
    assert client.get("/v1/models/half/versions/1").json() == {"model_version_status": entries[1:]}
    assert client.get("/v1/models/half").text.startswith('{\n "model_version_status": [\n  {\n   "version": "2",\n')


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("/v1/models/half/versions/9", 404, "Could not find version 9 of model half"),
        ("/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/half/versions/9/metadata", 404, "Servable not found for request: Specific(half, 9)"),
        ("/v1/models/half/labels/nope/metadata", 400, "Unrecognized servable version label: nope"),
    ],
)
def test_status_and_metadata_of_what_is_not_there(client: httpx.Client, path: str, status: int, text: str) -> None:
    assert error(client.get(path)) == (status, text)


def test_metadata_nests_signatures_twice(client: httpx.Client) -> None:
    answer = client.get("/v1/models/half/labels/stable/metadata").json()
    assert answer["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    default = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert default["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
        "unknown_rank": False,
    }


CLASSIFY = '{"signature_name": "classify_named", "examples": [{"x": 1.0}, {"x": 2.0}]}'


def test_classify_answers_pairs_of_label_and_score(client: httpx.Client) -> None:
    answer = post(client, "half", CLASSIFY, "classify")
    assert answer.text == '{\n    "results": [[["label", 3.5]], [["label", 4.0]]\n    ]\n}'


@pytest.mark.parametrize(
    "body",
    [
        '{"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": [2.0]}]}',
        '{"signature_name": "regress_x_to_y", "context": {"z": "w"}, "examples": [{"x": 1.0}, {"x": 2.0}]}',
    ],
)
def test_regress_answers_values(client: httpx.Client, body: str) -> None:
    assert post(client, "half", body, "regress").text == '{\n    "results": [3.5, 4.0]\n}'


EXAMPLES = {
    "no examples": ({}, "When method is classify, key 'examples' is expected and was not found"),
    "no list": ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
    "an empty list": ({"examples": []}, "'examples' value is an empty array"),
    "no object": ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
    "null": ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
    "nested": ({"examples": [{"x": [[1.0]]}]}, "Feature: x has element with unexpected JSON type: Array"),
    "an object": ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
    "mixed": ({"examples": [{"x": [1, 2.0]}]}, "Unexpected element type in feature: x expecting type: int64"),
    "too big": ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
    "an integer to a float feature": ({"examples": [{"x": 2}]}, ""),
    "unknown signature": ({"signature_name": "s", "examples": [{"x": 2.0}]}, "No signature was found with the name: s"),
}


@pytest.mark.parametrize("case", EXAMPLES)
@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_examples_that_are_wrong_are_400(client: httpx.Client, case: str, verb: str) -> None:
    """Both verbs say `classify`."""
    fields, text = EXAMPLES[case]
    signature = "classify_x_to_y" if verb == "classify" else "regress_x_to_y"
    status, told = error(post(client, "half", {"signature_name": signature, **fields}, verb))
    assert (status, text in told) == (400, True), told


def test_an_unknown_model_is_looked_up_after_the_examples(client: httpx.Client) -> None:
    assert error(post(client, "nope", '{"examples": []}', "regress"))[0] == 400
    assert error(post(client, "nope", '{"examples": [{}]}', "regress"))[0] == 404


def test_metrics_bear_the_real_servers_names(client: httpx.Client) -> None:
    """Requests are counted by status, times of those that went well; a model that is not served has no name."""
    post(client, "half", '{"instances": [1.0]}')
    post(client, "half", "{}")
    post(client, "stranger", "{}")
    answer = client.get("/monitoring/prometheus/metrics")
    assert answer.headers["content-type"] == "text/plain"
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"}' in answer.text
    assert ':tensorflow:serving:request_count{model_name="half",status="INVALID_ARGUMENT"}' in answer.text
    bucket = ':tensorflow:serving:request_latency_bucket{model_name="half",API="Predict",entrypoint="REST",le="10"}'
    assert bucket in answer.text
    assert "stranger" not in answer.text
