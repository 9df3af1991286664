"""KServe's own Python server behind the gateway, as a server of the kind ``v2``: over REST, REST with binary, gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from gateway.protos import v2_pb2 as pb
from tests.gateway.conftest import RunningGateway, start_gateway
from tests.peers.calls import MATRIX, Caller
from tests.peers.started import Peer, kserve

VARIANTS = ("rest", "binary", "grpc")
EVERY = pytest.mark.parametrize("variant", VARIANTS)
X = [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
Y = [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    running = kserve(tmp_path_factory.mktemp("kserve"))
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def gateway(server: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    servers: dict[str, Any] = {
        "rest": {"kind": "v2", "endpoint": server.http_endpoint},
        "binary": {"kind": "v2", "endpoint": server.http_endpoint, "binary": True},
        "grpc": {"kind": "v2", "endpoint": server.grpc_endpoint},
    }
    servers["binary"]["signatures"] = {"silent": {"inputs": X, "outputs": Y}}
    # Over gRPC KServe cannot list its models; `silent` is left for discovery.
    settings = {"servers": servers, "models": {"double": {}, "words": {}, "kinds": {}}}
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        for variant in VARIANTS:
            for model in ("double", "words", "kinds"):
                running.wait_until(f"/v2/models/{model}@{variant}/ready", 200)
        yield running
    finally:
        assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


@EVERY
@pytest.mark.parametrize("dialect", MATRIX)
def test_every_dialect_calls_it(gateway: RunningGateway, variant: str, dialect: str) -> None:
    assert MATRIX[dialect](Caller(gateway.client, gateway.grpc_port), f"double@{variant}", 1.5) == 3.0


@EVERY
def test_it_describes_its_models(gateway: RunningGateway, variant: str) -> None:
    """KServe has no versions, so its models have version 1 here."""
    told = gateway.client.get(f"/v2/models/double@{variant}").json()
    assert (told["versions"], told["inputs"], told["outputs"]) == (["1"], X, Y)


def test_its_list_of_models_is_discovered(gateway: RunningGateway) -> None:
    """Also one that does not describe itself, which is served once the settings do."""
    assert gateway.client.get("/v2/models/silent@rest/ready").status_code == 503
    assert gateway.infer("silent@binary", [1.5]).json()["outputs"][0]["data"] == [3.0]
    assert gateway.client.get("/v2/models/silent@grpc").status_code == 404


def errors_of(gateway: RunningGateway, variant: str, value: float) -> tuple[int, str]:
    answer = gateway.infer(f"double@{variant}", [value])
    return answer.status_code, answer.json()["error"]


@EVERY
def test_its_errors_are_told_in_its_own_words(gateway: RunningGateway, variant: str) -> None:
    """KServe's gRPC tells nothing of a model's exception, and calls an InferenceError the request's fault."""
    assert errors_of(gateway, variant, 13.0) == (400, "the v2 server: x must not begin with 13")
    broke = "Internal server error" if variant == "grpc" else "RuntimeError : the model broke"
    assert errors_of(gateway, variant, 666.0) == (500, f"the v2 server: {broke}")
    gave_up = 400 if variant == "grpc" else 500
    assert errors_of(gateway, variant, 667.0) == (gave_up, "the v2 server: the model gave up")
    assert gateway.infer(f"double@{variant}", [1.5]).status_code == 200, "a model's failure costs no other caller"


@EVERY
def test_text_goes_through(gateway: RunningGateway, variant: str) -> None:
    body = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [3], "data": ["plain", "", "größer ≥ 猫"]}]}
    answer = gateway.client.post(f"/v2/models/words@{variant}/infer", json=body)
    assert answer.json()["outputs"][0]["data"] == body["inputs"][0]["data"]


def test_bytes_that_are_no_text_go_through_over_grpc(gateway: RunningGateway) -> None:
    """Over REST KServe makes text of them, binary or not, and the gateway says so beforehand."""
    caller = Caller(gateway.client, gateway.grpc_port)
    message = pb.ModelInferRequest(model_name="words@grpc")
    message.inputs.add(name="t", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"\xff\x00", b"a"])
    answer: Any = caller.unary("/inference.GRPCInferenceService/ModelInfer", message, pb.ModelInferResponse)
    assert list(answer.outputs[0].contents.bytes_contents) == [b"\xff\x00", b"a"]
    body = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [1], "data": [{"b64": "/wA="}]}]}
    refused = gateway.client.post("/v2/models/words@rest/infer", json=body)
    assert (refused.status_code, "give its endpoint as grpc://" in refused.text) == (501, True)


ARRAYS = {
    "FP16": np.array([1.5, -2.0], np.float16),
    "FP32": np.array([0.1, 3e38], np.float32),
    "FP64": np.array([0.1, -1e300], np.float64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-32768, 1], np.int16),
    "INT32": np.array([-(2**31), 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**63], np.uint64),
    "BOOL": np.array([True, False]),
}


@EVERY
def test_every_datatype_goes_through(gateway: RunningGateway, variant: str) -> None:
    """Bit by bit; FP16, which has no JSON form, is refused where only JSON is taken."""
    caller = Caller(gateway.client, gateway.grpc_port)
    message = pb.ModelInferRequest(model_name=f"kinds@{variant}")
    for datatype, array in ARRAYS.items():
        message.inputs.add(name=datatype.lower(), datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    if variant == "rest":
        with pytest.raises(
            grpc.RpcError, match="FP16, which has no JSON form; this server takes tensors over REST as JSON only"
        ):
            caller.unary("/inference.GRPCInferenceService/ModelInfer", message, pb.ModelInferResponse)
        return
    answer: Any = caller.unary("/inference.GRPCInferenceService/ModelInfer", message, pb.ModelInferResponse)
    found = dict(zip([output.name for output in answer.outputs], answer.raw_output_contents, strict=True))
    assert found == {datatype.lower(): array.tobytes() for datatype, array in ARRAYS.items()}


@EVERY
def test_a_deadline_holds_and_the_next_request_is_answered(gateway: RunningGateway, variant: str) -> None:
    late = gateway.infer(f"double@{variant}", [99.0], **{"X-Duet-Timeout-Ms": "300"})
    assert late.status_code == 504
    assert gateway.infer(f"double@{variant}", [1.5]).status_code == 200


def test_a_server_that_was_away_is_called_again(gateway: RunningGateway, server: Peer) -> None:
    server.kill()
    for variant in VARIANTS:
        answer = gateway.infer(f"double@{variant}", [1.5])
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    server.start()
    for variant in VARIANTS:
        gateway.wait_until(f"/v2/models/double@{variant}/ready", 200)
        end = time.monotonic() + 10
        while (answer := gateway.infer(f"double@{variant}", [1.5])).status_code != 200:
            assert time.monotonic() < end, answer.text
        assert answer.json()["outputs"][0]["data"] == [3.0]
