"""Triton's extensions on the v2 REST front of the real gateway process, before servers of both frameworks."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway
from tests.gateway.transports import REST, SOCKET, Served, over, serving

LIMIT = 1_000_000
VARIANTS = ("tensorflow", "pytorch")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.fixture(scope="module", params=REST)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tensorflow, pytorch = FakeTFServing({"double": [1, 3]}), FakeTorchServe({"double": ["3", "1"]})
    settings = {
        "http": {"max_body_bytes": LIMIT},
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}, "absent": {}},
    }
    try:
        with serving(
            request.param, settings, tmp_path_factory.mktemp("gateway"), *(f"double@{name}" for name in VARIANTS)
        ) as running:
            yield running
    finally:
        tensorflow.close()
        pytorch.close()


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(gateway.url.removeprefix("http://").rstrip("/"))
    yield client
    client.close()


def tensor(*values: float) -> triton.InferInput:
    found = triton.InferInput("x", [len(values), 1], "FP32")
    return found.set_data_from_numpy(np.array(values, np.float32).reshape(-1, 1))


def body(*values: float) -> bytes:
    return b'{"inputs":[{"name":"x","shape":[%d,1],"datatype":"FP32","data":%s}]}' % (
        len(values),
        str(list(values)).encode(),
    )


def post(gateway: Served, content: bytes, model: str = "double", **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.client.post(f"/v2/models/{model}/infer", content=content, headers=given)


def raw_answer(gateway: Served, content: bytes, **headers: str) -> tuple[httpx.Response, bytes]:
    """The answer with its body as it came, not decompressed."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    with gateway.client.stream("POST", "/v2/models/double/infer", content=content, headers=given) as response:
        return response, b"".join(response.iter_raw())


@over(SOCKET)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("coding", COMPRESS)
def test_tritons_client_compresses_both_ways(client: triton.InferenceServerClient, variant: str, coding: str) -> None:
    """With compression the lengths of both JSON parts are those of the bodies before it."""
    answer = client.infer(
        f"double@{variant}",
        [tensor(*([0.5] * 1000))],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert (answer.as_numpy("y") == 1).all()


@over(SOCKET)
@pytest.mark.parametrize("coding", COMPRESS)
def test_tritons_asyncio_client_compresses_both_ways(gateway: RunningGateway, coding: str) -> None:
    async def call() -> triton.InferResult:
        async with triton_aio.InferenceServerClient(gateway.url.removeprefix("http://").rstrip("/")) as client:
            return await client.infer(
                "double",
                [tensor(*([0.5] * 1000))],
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )

    assert (asyncio.run(call()).as_numpy("y") == 1).all()


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_compressed_body_is_read_however_it_is_cut(gateway: Served, coding: str) -> None:
    compressed = COMPRESS[coding](body(*range(500)))
    pieces = (compressed[at : at + 7] for at in range(0, len(compressed), 7))
    answer = gateway.client.post("/v2/models/double/infer", content=pieces, headers={"content-encoding": coding})
    assert answer.json()["outputs"][0]["data"] == [2.0 * value for value in range(500)]


def test_a_gzip_body_may_have_several_members(gateway: Served) -> None:
    whole = body(1, 2)
    answer = post(gateway, gzip.compress(whole[:20]) + gzip.compress(whole[20:]), content_encoding="gzip")
    assert answer.json()["outputs"][0]["data"] == [2, 4]


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_body_that_is_too_large_once_decompressed_is_refused(gateway: Served, coding: str) -> None:
    """A thousandth of its size on the wire, and not taken into memory whole."""
    bomb = COMPRESS[coding](b" " * (16 * LIMIT))
    answer = post(gateway, bomb, content_encoding=coding)
    assert answer.status_code == 413
    assert "1000000 bytes" in answer.json()["error"]
    start = body(1)
    just_fits = start + bytes(random.Random(7).choices(b" \n\t\r", k=LIMIT - len(start)))
    assert post(gateway, COMPRESS[coding](just_fits), content_encoding=coding).status_code == 200


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_body_that_grows_more_than_a_hundredfold_is_refused_though_it_would_fit(gateway: Served, coding: str) -> None:
    answer = post(gateway, COMPRESS[coding](body(1).ljust(LIMIT)), content_encoding=coding)
    assert answer.status_code == 413
    assert "more than 100 times" in answer.json()["error"]


def test_a_gzip_body_of_thousands_of_members_is_refused(gateway: Served) -> None:
    answer = post(gateway, gzip.compress(body(1)) + 2000 * gzip.compress(b""), content_encoding="gzip")
    assert answer.status_code == 400
    assert "gzip members" in answer.json()["error"]


@pytest.mark.parametrize(
    ("coding", "content", "says"),
    [
        ("gzip", b"{}", "not valid gzip"),
        ("deflate", b"{}", "not valid deflate"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3], "ends before"),
        ("gzip", b"", "ends before"),
        ("deflate", zlib.compress(b"{}") + b"x", "goes on after"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x", "not valid gzip|ends before"),
    ],
)
def test_a_body_that_is_not_what_it_claims_is_refused(gateway: Served, coding: str, content: bytes, says: str) -> None:
    answer = post(gateway, content, content_encoding=coding)
    assert answer.status_code == 400
    assert any(part in answer.json()["error"] for part in says.split("|"))


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("GZIP, br", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=x", None),
        ("identity", None),
        ("br, *", None),
    ],
)
def test_the_answer_takes_the_coding_that_the_client_likes_best(
    gateway: Served, accepted: str, coding: str | None
) -> None:
    response, content = raw_answer(gateway, body(*range(500)), accept_encoding=accepted)
    assert response.headers.get("content-encoding") == coding
    assert int(response.headers["content-length"]) == len(content)
    plain = DECOMPRESS[coding](content) if coding else content
    assert plain.startswith(b'{"model_name":"double"')


def test_small_answers_and_errors_are_not_compressed(gateway: Served) -> None:
    for content in (body(1), b"{"):
        response, _ = raw_answer(gateway, content, accept_encoding="gzip")
        assert "content-encoding" not in response.headers


def test_a_large_answer_is_compressed_too(gateway: Served) -> None:
    """Beyond the size that is compressed on the event loop itself."""
    response, content = raw_answer(gateway, body(*range(30_000)), accept_encoding="gzip")
    assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(content).endswith(b"59998.0]}]}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_raw_request_is_the_inputs_bytes_alone(gateway: Served, variant: str) -> None:
    """A batch of one; the answer is binary (extension_binary_data.md, "Raw Binary Request")."""
    content = np.float32(0.1).tobytes()
    answer = post(gateway, content, f"double@{variant}", Inference_Header_Content_Length="0")
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    assert answer.content[length:] == np.float32(0.2).tobytes()
    assert answer.headers["x-duet-variant"] == variant


def test_a_raw_request_takes_versions_and_pins(gateway: Served) -> None:
    headers = {"Inference-Header-Content-Length": "0", "x-duet-variant": "pytorch"}
    answer = gateway.client.post("/v2/models/double/versions/1/infer", content=b"\0\0\0\0", headers=headers)
    assert (answer.headers["x-duet-variant"], answer.headers["x-duet-version"]) == ("pytorch", "1")


@pytest.mark.parametrize(
    ("model", "content", "status", "says"),
    [
        ("double", b"12345678", 400, "takes 4 bytes, got 8"),
        ("nope", b"1234", 404, "unknown model"),
        ("absent", b"1234", 503, "not ready"),
        ("double/versions/2", b"1234", 404, "no version 2"),
    ],
)
def test_a_raw_request_that_does_not_fit_is_told_why(
    gateway: Served, model: str, content: bytes, status: int, says: str
) -> None:
    answer = post(gateway, content, model, Inference_Header_Content_Length="0")
    assert answer.status_code == status
    assert says in answer.json()["error"]


@over(SOCKET)
@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_of_an_output(client: triton.InferenceServerClient, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("y", class_count=3, binary_data=binary)]
    answer = client.infer("double", [tensor(0.5, -2)], outputs=outputs)
    found = [[text if isinstance(text, bytes) else text.encode() for text in row] for row in answer.as_numpy("y")]
    assert found == [[b"1.000000:0"], [b"-4.000000:0"]]
    assert answer.get_output("y")["datatype"] == "BYTES"


@over(SOCKET)
def test_the_models_are_listed(gateway: RunningGateway, client: triton.InferenceServerClient) -> None:
    assert gateway.client.get("/v2/models").json() == {"models": ["absent", "double"]}
    absent, *double = client.get_model_repository_index()
    assert (absent["name"], absent["state"]) == ("absent", "UNAVAILABLE")
    assert "Could not find" in absent["reason"]
    expected = [{"name": "double", "version": version, "state": "READY", "reason": ""} for version in ("1", "3")]
    assert double == expected
    assert gateway.client.post("/v2/repository/index", json={"ready": True}).json() == expected


@pytest.mark.parametrize("content", [b"[", b"[]", b'{"ready": 1}', b" " * 100_000])
def test_a_bad_question_to_the_index_is_refused(gateway: Served, content: bytes) -> None:
    answer = gateway.client.post("/v2/repository/index", content=content)
    assert answer.status_code == (413 if len(content) > 1000 else 400)
    assert "error" in answer.json()


@over(SOCKET)
def test_loading_models_is_no_clients_business(client: triton.InferenceServerClient) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="not found") as caught:
            call("double")
        assert caught.value.status() == "404"


@over(SOCKET)
def test_the_configuration_tells_the_batch_apart(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config("double@tensorflow", "1")
    assert config == {
        "name": "double",
        "platform": "tensorflow_savedmodel",
        "backend": "tensorflow",
        "version_policy": {"specific": {"versions": [1, 3]}},
        "max_batch_size": 2**31 - 1,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}],
    }


def statistics(gateway: Served, path: str) -> dict[str, Any]:
    (found,) = gateway.client.get(f"/v2/models/{path}/stats").json()["model_stats"]
    return dict(found)


@over(SOCKET)
def test_statistics_have_tritons_shape(gateway: RunningGateway, client: triton.InferenceServerClient) -> None:
    client.infer("double@tensorflow", [tensor(1, 2, 3)], model_version="1")
    found = statistics(gateway, "double/versions/1")
    assert list(found) == [
        "name",
        "version",
        "last_inference",
        "inference_count",
        "execution_count",
        "inference_stats",
        "batch_stats",
    ]
    assert list(found["inference_stats"]) == [
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    ]
    assert found == client.get_inference_statistics("double", "1")["model_stats"][0]
    assert found["batch_stats"][-1]["batch_size"] == 3


def test_statistics_count_rows_successes_and_failures(gateway: Served) -> None:
    before = statistics(gateway, "double@pytorch/versions/1")
    gateway.infer("double@pytorch/versions/1", [1, 2])
    post(gateway, b'{"inputs":[{"name":"z","shape":[1],"datatype":"FP32","data":[1]}]}', "double@pytorch/versions/1")
    after = statistics(gateway, "double@pytorch/versions/1")
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    for name in ("success", "fail"):
        assert after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] == 1
        assert after["inference_stats"][name]["ns"] > 0
    of_all = gateway.client.get("/v2/models/stats").json()["model_stats"]
    assert {("double", "1"), ("double", "3"), ("double@pytorch", "1")} <= {
        (one["name"], one["version"]) for one in of_all
    }


def test_a_request_that_is_no_message_is_counted_nowhere(gateway: Served) -> None:
    """It never reached a version."""
    before = gateway.client.get("/v2/models/stats").content
    post(gateway, b"{")
    assert gateway.client.get("/v2/models/stats").content == before


@pytest.mark.parametrize("call", ["stats", "config"])
def test_unknown_models_and_versions_are_not_found(gateway: Served, call: str) -> None:
    for path, status in (("nope", 404), ("double/versions/2", 404), ("double/versions/x", 404), ("absent", 503)):
        answer = gateway.client.get(f"/v2/models/{path}/{call}")
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]
