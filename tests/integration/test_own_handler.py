"""A user's own handler in the real TorchServe: called through the gateway, registered and taken away under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from gateway.protos import torchserve_pb2 as pb
from serving.children import Child
from serving.torchserve import TorchServe, TorchServePorts, find_archives, find_java
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for
from tests.stack import free_ports

HANDLER = '''
import time

from ts.utils.util import PredictionException


class Words:
    """Text in, JSON out, as the handler of someone who has never heard of tensors."""

    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return [self.answer(row, context) for row in data]

    def answer(self, row, context):
        body = row.get("body", row.get("data"))
        text = body if isinstance(body, str) else bytes(body).decode()
        if text == "tea":
            raise PredictionException("only coffee here", 418)
        if text == "broken":
            raise ValueError("no such word")
        if text == "later":
            context.set_response_status(code=409, idx=0)
            return "not now"
        if text == "slow":
            time.sleep(2)
        context.set_response_content_type(0, "application/json")
        return {"words": len(text.split()), "parts": sorted(row), "text": text}
'''


@dataclass
class World:
    server: TorchServe
    gateway: RunningGateway

    def managed(self, method: str, path: str) -> httpx.Response:
        key = json.loads(self.server.key_file.read_text())["management"]["key"]
        url = f"http://127.0.0.1:{self.server.ports.management}{path}"
        return httpx.request(method, url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def post(self, path: str, text: str, **headers: str) -> httpx.Response:
        return self.gateway.client.post(path, content=text.encode(), headers=headers)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("own")
    store = folder / "store"
    store.mkdir()
    archive(folder, store, "words")
    server = TorchServe(
        ports=TorchServePorts(
            **dict(
                zip(
                    ("inference", "management", "metrics", "grpc_inference", "grpc_management"),
                    free_ports(5),
                    strict=True,
                )
            )
        ),
        model_store=store,
        archives=find_archives(store, ["words"]),
        folder=folder / "run",
        java=find_java(os.environ),
    )
    launch = server.launch(folder / "torchserve.log")
    with (server.folder / "config.properties").open("a") as properties:
        properties.write("enable_model_api=true\n")
    child = Child(launch)
    gateway = None
    try:
        gateway = start_gateway(settings(server), folder)
        world = World(server, gateway)
        wait_for(lambda: world.post("/predictions/words", "a").status_code == 200, "TorchServe", seconds=90)
        yield world
    finally:
        if gateway is not None:
            gateway.stop()
        child.kill()


def archive(folder: Path, store: Path, name: str) -> None:
    handler = folder / "words.py"
    handler.write_text(HANDLER)
    archiver = Path(sys.executable).with_name("torch-model-archiver")
    options = ["--model-name", name, "--version", "1", "--handler", str(handler), "--export-path", str(store)]
    subprocess.run([archiver, *options], check=True, capture_output=True, timeout=60)
    (store / f"{name}.mar").rename(store / f"{name}-1.mar")


def settings(server: TorchServe) -> dict[str, object]:
    ports = server.ports
    entry = {
        "kind": "torchserve",
        "endpoint": f"http://127.0.0.1:{ports.inference}",
        "management": f"http://127.0.0.1:{ports.management}",
        "key_file": str(server.key_file),
    }
    opaque = {"words": {"opaque": True}}
    return {"servers": {"pytorch": entry}, "models": opaque, "refresh_seconds": 1.0}


def test_text_goes_in_and_json_comes_out(world: World) -> None:
    answer = world.post("/predictions/words/1.0", "to be or not", **{"content-type": "text/plain"})
    assert answer.json() == {"words": 4, "parts": ["body"], "text": "to be or not"}
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["x-duet-variant"], answer.headers["x-duet-version"]) == ("pytorch", "1")


def test_named_parts_come_to_it_under_their_names(world: World) -> None:
    answer = world.gateway.client.post("/predictions/words", files={"data": ("a.txt", b"one two"), "more": b"x"})
    assert answer.json() == {"words": 2, "parts": ["data", "more"], "text": "one two"}


def test_its_refusals_are_its_own(world: World) -> None:
    refused = world.post("/predictions/words", "tea")
    assert refused.status_code == 418
    assert refused.json() == {"code": 418, "type": "InternalServerException", "message": "only coffee here"}
    set_by_hand = world.post("/predictions/words", "later")
    assert (set_by_hand.status_code, set_by_hand.text) == (409, "not now")


def test_its_exception_is_an_error_of_the_model_and_no_overload(world: World) -> None:
    failed = world.post("/predictions/words", "broken")
    assert (failed.status_code, failed.json()["type"]) == (500, "InternalServerException")
    assert "retry-after" not in failed.headers


def test_over_grpc_it_gets_the_same(world: World) -> None:
    service = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
    with grpc.insecure_channel(f"127.0.0.1:{world.gateway.grpc_port}") as channel:
        call = channel.unary_unary(
            service + "Predictions",
            request_serializer=pb.PredictionsRequest.SerializeToString,
            response_deserializer=pb.PredictionResponse.FromString,
        )
        answer = call(pb.PredictionsRequest(model_name="words", input={"data": b"to be"}), timeout=20)
        assert json.loads(answer.prediction) == {"words": 2, "parts": ["data"], "text": "to be"}
        with pytest.raises(grpc.RpcError) as caught:
            call(pb.PredictionsRequest(model_name="words", input={"data": b"later"}), timeout=20)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")


def test_a_deadline_ends_the_wait(world: World) -> None:
    late = world.post("/predictions/words", "slow", **{"x-duet-timeout-ms": "200"})
    assert (late.status_code, late.json()["type"]) == (504, "RequestTimeoutException")


def test_a_model_that_is_unregistered_is_gone_and_one_that_is_registered_is_there_within_five_seconds(
    world: World,
) -> None:
    client = world.gateway.client
    added = world.managed("POST", "/models?url=words-1.mar&model_name=extra&initial_workers=1&synchronous=true")
    assert added.status_code == 200, added.text
    wait_for(lambda: "extra" in client.get("/v2/models").json()["models"], "extra to be known", seconds=5)
    assert world.managed("DELETE", "/models/extra/1").status_code == 200
    wait_for(lambda: client.get("/v2/models/extra").status_code == 404, "extra to be gone", seconds=5)

    assert world.managed("DELETE", "/models/words/1").status_code == 200
    wait_for(lambda: client.get("/v2/models/words/ready").status_code != 200, "words to be gone", seconds=5)
    again = world.managed("POST", "/models?url=words-1.mar&model_name=words&initial_workers=1&synchronous=true")
    assert again.status_code == 200, again.text
    wait_for(lambda: world.post("/predictions/words", "a b").status_code == 200, "words to be back", seconds=5)
