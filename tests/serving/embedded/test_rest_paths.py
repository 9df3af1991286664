"""The REST contract: routes, status, metadata, metrics, and HTTP. Runs as well against the real server."""

from __future__ import annotations

import gzip

import httpx
import pytest

from tests.serving.embedded.rest import error, post

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


FAMILIES = {
    ":tensorflow:cc:saved_model:load_attempt_count": "counter",
    ":tensorflow:cc:saved_model:load_latency": "counter",
    ":tensorflow:core:graph_run_time_usecs": "counter",
    ":tensorflow:core:graph_runs": "counter",
    ":tensorflow:serving:batching_session:queuing_latency": "histogram",
    ":tensorflow:serving:batching_session:wrapped_run_count": "counter",
    ":tensorflow:serving:model_warmup_latency": "histogram",
    ":tensorflow:serving:request_count": "counter",
    ":tensorflow:serving:request_example_count_total": "counter",
    ":tensorflow:serving:request_example_counts": "histogram",
    ":tensorflow:serving:request_latency": "histogram",
    ":tensorflow:serving:request_log_count": "counter",
    ":tensorflow:serving:runtime_latency": "histogram",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_listed_with_its_type(client: httpx.Client, name: str) -> None:
    assert f"# TYPE {name} {FAMILIES[name]}\n" in client.get("/monitoring/prometheus/metrics").text


def value(client: httpx.Client, cell: str) -> float:
    lines = client.get("/monitoring/prometheus/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == cell), 0.0)


def test_runs_and_examples_are_counted_by_model(client: httpx.Client) -> None:
    runs = ':tensorflow:serving:runtime_latency_count{model_name="half",API="Regress",runtime="TF1"}'
    total = ':tensorflow:serving:request_example_count_total{model="half"}'
    calls = ':tensorflow:serving:request_example_counts_count{model="half"}'
    before = [value(client, cell) for cell in (runs, total, calls)]
    body = '{"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}]}'
    assert post(client, "half", body, "regress").status_code == 200
    after = [value(client, cell) for cell in (runs, total, calls)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 3, 1]


def test_loads_are_counted_by_path(client: httpx.Client) -> None:
    text = client.get("/monitoring/prometheus/metrics").text
    assert '/half/2",status="success"} 1\n' in text
