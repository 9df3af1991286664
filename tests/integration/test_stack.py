"""Everything together, as its user sees it. In this order: the last tests take a server away and stop it all."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton

from loadtest.payloads import json_body
from models.catalog import CATALOG
from tests.stack import Stack, start_stack

VARIANTS = ("tensorflow", "pytorch")
BOTH = pytest.mark.parametrize("variant", VARIANTS)
EVERY = pytest.mark.parametrize("model", list(CATALOG))


def infer(stack: Stack, model: str, variant: str, body: bytes | None = None, *, version: int | None = None) -> Any:
    path = f"/v2/models/{model}@{variant}" + (f"/versions/{version}" if version else "") + "/infer"
    answer = stack.client.post(path, content=body or json_body(model))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-duet-variant"] == variant
    return answer.json()


def test_up_shows_one_answer_of_every_model_from_both_frameworks(stack: Stack) -> None:
    rows = [line.split("│") for line in stack.text().splitlines() if line.startswith("│")]
    shown = {(row[1].strip(), row[2].strip()) for row in rows if row[2].strip() in VARIANTS}
    assert shown == {(model, variant) for model in CATALOG for variant in VARIANTS}


@BOTH
def test_linear_regression_has_learnt_the_articles_data(stack: Stack, variant: str) -> None:
    """x = 1..4, y = x - 1: for 5 it answers 4."""
    body = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[5]}]}'
    (output,) = infer(stack, "linear_regression", variant, body)["outputs"]
    assert output["data"][0] == pytest.approx(4, abs=0.01)


@EVERY
def test_metadata_is_the_catalogs_in_both_frameworks(stack: Stack, model: str) -> None:
    spec = CATALOG[model]
    for variant in VARIANTS:
        body = stack.client.get(f"/v2/models/{model}@{variant}").json()
        assert body["versions"] == [str(version) for version in spec.versions]
        for kind in ("inputs", "outputs"):
            declared = {tensor["name"]: tensor for tensor in body[kind]}
            assert declared == {tensor.name: tensor.as_json() for tensor in getattr(spec, kind)}
            assert list(declared) == [tensor.name for tensor in getattr(spec, kind)], "the model's own order"


@EVERY
def test_both_frameworks_compute_the_same_function_in_version_2(stack: Stack, model: str) -> None:
    answers = [infer(stack, model, variant, version=2)["outputs"] for variant in VARIANTS]
    first, second = ({output["name"]: output for output in outputs} for outputs in answers)
    assert first.keys() == second.keys()
    for name, output in first.items():
        assert output["shape"] == second[name]["shape"]
        if output["datatype"].startswith("FP"):
            np.testing.assert_allclose(output["data"], second[name]["data"], rtol=1e-4, atol=1e-5)


@EVERY
@BOTH
@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_tritonclient_gets_what_curl_gets(stack: Stack, model: str, variant: str, binary: bool) -> None:
    """The public package, unmodified."""
    spec, example = CATALOG[model], CATALOG[model].example().inputs
    client = triton.InferenceServerClient(f"127.0.0.1:{stack.http_port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(f"{model}@{variant}")
    inputs = []
    for tensor in spec.inputs:
        array = np.array(example[tensor.name], triton_dtype(tensor.datatype))
        inputs.append(triton.InferInput(tensor.name, list(array.shape), tensor.datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    wanted = [triton.InferRequestedOutput(tensor.name, binary_data=binary) for tensor in spec.outputs]
    result = client.infer(f"{model}@{variant}", inputs, outputs=wanted, request_id="7")
    assert result.get_response()["id"] == "7"
    for output in infer(stack, model, variant)["outputs"]:
        got = result.as_numpy(output["name"])
        assert list(got.shape) == output["shape"]
        if output["datatype"] == "BYTES":
            assert [item.decode() for item in got.ravel()] == output["data"]
        else:
            assert got.dtype == triton_dtype(output["datatype"])
            np.testing.assert_allclose(got.ravel(), output["data"], rtol=1e-5, atol=1e-6)
    client.close()


def triton_dtype(datatype: str) -> Any:
    from tritonclient.utils import triton_to_np_dtype

    return triton_to_np_dtype(datatype)


@BOTH
def test_a_batch_is_answered_row_by_row(stack: Stack, variant: str) -> None:
    (one,) = infer(stack, "convnet", variant)["outputs"]
    (many,) = infer(stack, "convnet", variant, json_body("convnet", rows=64))["outputs"]
    assert many["shape"] == [64, 10]
    np.testing.assert_allclose(np.reshape(many["data"], (64, 10)), [one["data"]] * 64, rtol=1e-4, atol=1e-5)


@BOTH
def test_an_empty_batch_is_answered_with_an_empty_batch(stack: Stack, variant: str) -> None:
    body = b'{"inputs":[{"name":"x","shape":[0,1],"datatype":"FP32","data":[]}]}'
    (output,) = infer(stack, "linear_regression", variant, body)["outputs"]
    assert output["shape"] == [0, 1]
    assert output["data"] == []


@BOTH
def test_bad_requests_are_refused_before_any_server_sees_them(stack: Stack, variant: str) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    before = backend_calls(stack, variant)
    answer = stack.client.post(f"/v2/models/linear_regression@{variant}/infer", content=body)
    assert answer.status_code == 400
    assert answer.json() == {"error": "input 'x': shape [1, 2]; the model takes [-1, 1]"}
    assert backend_calls(stack, variant) == before


def backend_calls(stack: Stack, variant: str) -> float:
    lines = stack.admin.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("duet_backend_seconds_count") and f'"{variant}"' in line]
    return sum(float(line.split()[-1]) for line in counts)


def test_metrics_show_the_calls_with_their_variant(stack: Stack) -> None:
    text = stack.admin.get("/metrics").text
    for variant in VARIANTS:
        assert f'duet_requests_total{{code="OK",front="v2_rest",model="linear_regression",variant="{variant}"' in text


def test_nothing_but_loopback_listens(stack: Stack) -> None:
    """The servers' ports above all: who reaches TorchServe's management port owns the machine."""
    listening = [
        connection.laddr.ip
        for process in [psutil.Process(stack.process.pid), *stack.children()]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= len(stack.ports)
    assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}


def test_a_second_up_says_which_ports_are_taken(stack: Stack, tmp_path: Path) -> None:
    second = start_stack(tmp_path, "--http-port", str(stack.http_port), "--no-train")
    assert second.process.wait(60) == 1
    lines = second.text().strip().splitlines()
    assert str(stack.http_port) in lines[-1]
    assert "--http-port" in lines[-1]
    second.stop()


# Quick members of its kind: `test_a_server_that_is_down` of the matrix, after which the test below waits for both.
@pytest.mark.full
def test_a_killed_torchserve_is_503_while_tensorflow_goes_on_and_comes_back(stack: Stack) -> None:
    java = next(child for child in stack.children() if child.name() == "java")
    java.kill()
    deadline = time.monotonic() + 5
    while stack.client.get("/v2/models/convnet@pytorch/ready").status_code != 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dead = stack.client.post("/v2/models/convnet@pytorch/infer", content=json_body("convnet"))
    assert dead.status_code == 503
    assert "cannot be reached" in dead.json()["error"]
    assert dead.headers["retry-after"] == "1"
    infer(stack, "convnet", "tensorflow")

    deadline = time.monotonic() + 300
    while stack.client.get("/v2/models/convnet@pytorch/ready").status_code != 200:
        assert time.monotonic() < deadline, stack.text()
        infer(stack, "convnet", "tensorflow")
        time.sleep(0.5)
    infer(stack, "convnet", "pytorch")
    assert "torchserve was ended by SIGKILL; starting it again" in stack.text()


def test_ctrl_c_stops_everything_and_frees_every_port(stack: Stack) -> None:
    deadline = time.monotonic() + 120
    # Another test may just have killed them; they come back.
    while {stack.client.get(f"/v2/models/convnet@{variant}/ready").status_code for variant in VARIANTS} != {200}:
        assert time.monotonic() < deadline, stack.text()
        time.sleep(0.2)
    processes = stack.children()
    assert len(processes) > 3
    assert stack.stop(signal.SIGINT) == 0
    _, alive = psutil.wait_procs(processes, timeout=1)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for port in stack.ports:
        with socket.create_server(("127.0.0.1", port)):
            pass
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{stack.http_port}/v2")
