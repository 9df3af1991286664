"""Real MLServer and Triton behind the gateway, as servers of the kind ``v2`` over both of their wires.

KServe's server is in test_kserve_server.py, which `make test` runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gateway.protos import v2_pb2 as pb
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for
from tests.peers.calls import MATRIX, Caller
from tests.peers.started import Peer, mlserver, triton

pytestmark = pytest.mark.peers

EVERY = pytest.mark.parametrize("variant", ["rest", "grpc"])


@dataclass
class World:
    peer: Peer
    gateway: RunningGateway

    @property
    def is_triton(self) -> bool:
        return self.peer.name == "triton"

    def infer(self, model: str, message: pb.ModelInferRequest) -> Any:
        message.model_name = model
        caller = Caller(self.gateway.client, self.gateway.grpc_port)
        return caller.unary("/inference.GRPCInferenceService/ModelInfer", message, pb.ModelInferResponse)


@pytest.fixture(scope="module", params=[mlserver, triton], ids=lambda make: make.__name__)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Its models are named nowhere: both servers list theirs."""
    peer: Peer = request.param(tmp_path_factory.mktemp("peer"))
    peer.start()
    servers = {
        "rest": {"kind": "v2", "endpoint": peer.http_endpoint},
        "grpc": {"kind": "v2", "endpoint": peer.grpc_endpoint},
    }
    running = start_gateway({"servers": servers}, tmp_path_factory.mktemp("gateway"))
    try:
        for variant in servers:
            for model in ("double", "words", "kinds"):
                running.wait_until(f"/v2/models/{model}@{variant}/ready", 200)
        yield World(peer, running)
    finally:
        stopped = running.stop()
        peer.kill()
    assert stopped == 0
    assert "Traceback" not in running.log.read_text()


@EVERY
@pytest.mark.parametrize("dialect", MATRIX)
def test_every_dialect_calls_it(world: World, variant: str, dialect: str) -> None:
    caller = Caller(world.gateway.client, world.gateway.grpc_port)
    assert MATRIX[dialect](caller, f"double@{variant}", 1.5) == 3.0


@EVERY
def test_it_describes_its_models(world: World, variant: str) -> None:
    """Triton's versions are its own; MLServer's text for a version is version 1 here, as none is."""
    told = world.gateway.client.get(f"/v2/models/double@{variant}").json()
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    assert told["versions"] == (["1", "2"] if world.is_triton else ["1"])
    assert world.gateway.client.get(f"/v2/models/words@{variant}").json()["versions"] == ["1"]
    of_first = world.gateway.client.post(
        f"/v2/models/double@{variant}/versions/1/infer",
        json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]},
    )
    assert of_first.json()["model_version"] == "1"


@EVERY
def test_its_errors_name_nothing_of_its_inside(world: World, variant: str) -> None:
    refused = world.gateway.infer(f"double@{variant}", [13.0])
    assert (refused.status_code, refused.json()["error"]) == (400, "the v2 server: x must not begin with 13")
    broke = world.gateway.infer(f"double@{variant}", [666.0])
    assert broke.status_code == 500
    assert not any(word in broke.text for word in ("Traceback", ".py", "/"))
    assert world.gateway.infer(f"double@{variant}", [1.5]).status_code == 200


@EVERY
def test_strings_go_through(world: World, variant: str) -> None:
    """Triton takes any bytes over both wires; MLServer's codec for strings takes text."""
    items = [b"plain", "größer ≥ 猫".encode(), *([b"\xff\x00"] if world.is_triton else [])]
    message = pb.ModelInferRequest()
    message.inputs.add(name="t", datatype="BYTES", shape=[len(items)]).contents.bytes_contents.extend(items)
    assert list(world.infer(f"words@{variant}", message).outputs[0].contents.bytes_contents) == items


ARRAYS = {
    "FP16": np.array([1.5, -2.0], np.float16),
    "FP32": np.array([0.1, 3e38], np.float32),
    "FP64": np.array([0.1, -1e300], np.float64),
    "INT8": np.array([-128, 127], np.int8),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "UINT8": np.array([0, 255], np.uint8),
    "BOOL": np.array([True, False]),
}


@EVERY
def test_every_datatype_goes_through(world: World, variant: str) -> None:
    """Bit by bit. MLServer takes JSON alone over REST, which has no form for FP16."""
    if variant == "rest" and not world.is_triton:
        pytest.skip("FP16 has no JSON form; test_kserve_server.py sees it refused")
    message = pb.ModelInferRequest()
    for datatype, array in ARRAYS.items():
        message.inputs.add(name=datatype.lower(), datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    answer = world.infer(f"kinds@{variant}", message)
    names = [output.name.removesuffix("_out").upper() for output in answer.outputs]
    found = dict(zip(names, answer.raw_output_contents, strict=True))
    assert found == {datatype: array.tobytes() for datatype, array in ARRAYS.items()}


@EVERY
def test_a_deadline_holds_and_the_next_request_is_answered(world: World, variant: str) -> None:
    late = world.gateway.infer(f"double@{variant}", [99.0], **{"X-Duet-Timeout-Ms": "300"})
    assert late.status_code == 504
    answer = world.gateway.infer(f"double@{variant}", [1.5])
    assert answer.status_code == 200, answer.text


@EVERY
def test_a_full_queue_is_overload(world: World, variant: str) -> None:
    if not world.is_triton:
        pytest.skip("MLServer has no bound for its queue")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: world.gateway.infer(f"queued@{variant}", [99.0]), range(8)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}, [answer.text for answer in answers]
    full = next(answer for answer in answers if answer.status_code == 429)
    assert full.json()["error"] == "the v2 server's queue for this model is full"
    assert "retry-after" in full.headers


def test_a_model_whose_process_died_is_unavailable(world: World) -> None:
    """Triton's process for a Python model is killed; it starts no other until the model is loaded again."""
    if not world.is_triton:
        pytest.skip("MLServer runs its models in its own process here")
    assert world.peer.process is not None
    group = str(world.peer.process.pid)
    stubs = subprocess.run(["pgrep", "-g", group, "-f", "backend_stub.*words"], capture_output=True, check=True)
    for pid in stubs.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    body = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
    for variant in ("rest", "grpc"):
        said = world.gateway.client.post(f"/v2/models/words@{variant}/infer", json=body)
        assert (said.status_code, "process for this model died" in said.text) == (503, True), said.text


def test_a_server_that_was_away_is_called_again(world: World) -> None:
    world.peer.kill()
    for variant in ("rest", "grpc"):
        answer = world.gateway.infer(f"double@{variant}", [1.5])
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    world.peer.start()
    for variant in ("rest", "grpc"):
        wait_for(
            lambda variant=variant: world.gateway.infer(f"double@{variant}", [1.5]).status_code == 200,
            f"double@{variant} to answer again",
        )
