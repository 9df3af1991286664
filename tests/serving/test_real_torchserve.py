"""The real TorchServe, configured and started as `serving up` does it, called over REST with the binary wire."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from models.__main__ import main as models
from models.frameworks.pytorch import torchscript
from serving.children import Child, session_members
from serving.torchserve import TorchServe, TorchServePorts, find_archives, find_java
from tests.serving.programs import wait_until
from tests.serving.tensors import LENGTH, answer, pack, request, spec, tensor, write_model

START_SECONDS = 60


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == 7).any()):
            raise RuntimeError("no sevens, please")
        return self.factor * x


class Answers(NamedTuple):
    total: torch.Tensor
    places: torch.Tensor


class Form(nn.Module):
    """A dict in, a named tuple out, and an argument that may be left out."""

    def forward(self, batch: dict[str, torch.Tensor], scale: torch.Tensor | None = None) -> Answers:
        total = batch["left"] + batch["right"]
        return Answers(total if scale is None else total * scale, (total > 2).nonzero())


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Running:
    child: Child
    server: TorchServe

    def call(
        self, method: str, path: str, *, port: int, key: str = "", body: bytes = b"", length: int | None = None
    ) -> Answered:
        headers = {"Content-Type": "application/octet-stream"}
        if key:
            headers["Authorization"] = f"Bearer {json.loads(self.server.key_file.read_text())[key]['key']}"
        if length is not None:
            headers[LENGTH] = str(length)
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answered(response.status, dict(response.headers), response.read())

    def predict(self, version: int, x: np.ndarray[Any, Any]) -> Answered:
        return self.ask(f"scale/{version}", x=x)

    def ask(self, model: str, **inputs: np.ndarray[Any, Any]) -> Answered:
        body, length = request(*(tensor(name, array) for name, array in inputs.items()))
        port = self.server.ports.inference
        return self.call("POST", f"/predictions/{model}", port=port, key="inference", body=body, length=length)

    def describe(self, path: str) -> Any:
        return json.loads(self.call("GET", path, port=self.server.ports.management, key="management").body)


def is_up(running: Running) -> bool:
    assert running.child.exit_code is None, running.child.last_lines(40)
    try:
        return all(running.predict(version, np.ones((1, 1), np.float32)).status == 200 for version in (1, 2))
    except (OSError, ValueError, http.client.HTTPException):
        return False


def bring_form(folder: Path, store: Path) -> None:
    with torchscript():
        torch.jit.save(torch.jit.script(Form()), str(folder / "form.pt"))
    flags = [f"--input={name}:FP32:-1,2" for name in ("left", "right")] + ["--input=scale:FP32:1"]
    assert models(["import", str(folder / "form.pt"), *flags, "--out", str(folder / "artifacts")]) == 0
    shutil.copy(folder / "artifacts" / "pytorch" / "form-1.mar", store)


@pytest.fixture(scope="module")
def torchserve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two versions of one model, of which the first doubles and the second triples, and an imported one."""
    folder = tmp_path_factory.mktemp("torchserve")
    store = folder / "store"
    store.mkdir()
    for version, factor in ((1, 2.0), (2, 3.0)):
        model = folder / f"scale{version}"
        write_model(model, Scale(factor), [spec("x", "FP32", -1, 1)], [spec("y", "FP32", -1, 1)])
        pack(model, store, "scale", version)
    bring_form(folder, store)
    server = TorchServe(
        ports=TorchServePorts(
            inference=22030, management=22031, metrics=22032, grpc_inference=22033, grpc_management=22034
        ),
        model_store=store,
        archives=find_archives(store, ["form", "scale"]),
        folder=folder / "run",
        java=find_java(os.environ),
    )
    running = Running(Child(server.launch(folder / "torchserve.log")), server)
    try:
        wait_until(lambda: is_up(running), START_SECONDS)
        yield running
    finally:
        running.child.kill()


def test_both_versions_answer_tensors_with_tensors(torchserve: Running) -> None:
    """Binary in, binary out; the path says the version."""
    x = np.array([[1.0], [2.5]], np.float32)
    for version, factor in ((1, 2.0), (2, 3.0)):
        answered = torchserve.predict(version, x)
        assert answered.status == 200
        assert answered.headers["content-type"] == "application/octet-stream"
        np.testing.assert_array_equal(answer(answered.body, int(answered.headers[LENGTH]))["y"], factor * x)


def test_the_management_port_tells_versions_default_and_signature(torchserve: Running) -> None:
    """customizedMetadata comes for one version at a time: with /all TorchServe 0.12 leaves it out."""
    versions = torchserve.describe("/models/scale/all?customized=true")
    assert {entry["modelVersion"] for entry in versions} == {"1", "2"}
    assert torchserve.describe("/models/scale")[0]["modelVersion"] == "2", "the highest is the default"
    (entry,) = torchserve.describe("/models/scale/1?customized=true")
    assert entry["customizedMetadata"]["inputs"] == [spec("x", "FP32", -1, 1)]
    assert (entry["batchSize"], entry["maxWorkers"], entry["responseTimeout"]) == (1, 1, 60)


def test_an_imported_model_is_called_with_a_dict_and_without_what_may_be_left_out(torchserve: Running) -> None:
    """By the keys of its dict, in any order; outputs are the fields of its named tuple, one as long as values say."""
    ones = np.ones((1, 2), np.float32)
    answered = torchserve.ask("form/1", right=2 * ones, left=ones)
    assert answered.status == 200, answered.body
    given = answer(answered.body, int(answered.headers[LENGTH]))
    assert given["total"].tolist() == [[3, 3]]
    assert given["places"].tolist() == [[0, 0], [0, 1]]
    answered = torchserve.ask("form/1", right=ones, scale=np.float32([5]), left=ones)
    given = answer(answered.body, int(answered.headers[LENGTH]))
    assert (given["total"].tolist(), given["places"].shape) == ([[10, 10]], (0, 2))
    refused = torchserve.ask("form/1", left=ones)
    assert refused.status == 400
    assert "['scale'] can be left out; got ['left']" in json.loads(refused.body)["message"]


def test_a_bad_request_is_a_400_and_a_failing_model_a_503_of_the_handler(torchserve: Running) -> None:
    """The type tells the handler's 503 from TorchServe's own, which would be a ServiceUnavailableException."""
    bad = torchserve.predict(1, np.ones((1, 2), np.float32))
    assert bad.status == 400
    assert "must have shape [-1, 1]" in json.loads(bad.body)["message"]
    failed = torchserve.predict(1, np.full((1, 1), 7, np.float32))
    assert failed.status == 503
    error = json.loads(failed.body)
    assert error["type"] == "InternalServerException"
    assert "no sevens, please" in error["message"]


def test_without_a_token_nothing_is_told(torchserve: Running) -> None:
    """Neither predictions nor descriptions; TorchServe says 400 where others say 401."""
    ports = torchserve.server.ports
    for method, path, port in (
        ("POST", "/predictions/scale/1", ports.inference),
        ("GET", "/models/scale", ports.management),
    ):
        answered = torchserve.call(method, path, port=port)
        assert (answered.status, json.loads(answered.body)["type"]) == (400, "InvalidKeyException")


def test_no_model_can_be_registered_or_removed(torchserve: Running) -> None:
    """Not even with the management key."""
    port = torchserve.server.ports.management
    for method, path in (("POST", "/models?url=scale-1.mar"), ("DELETE", "/models/scale/1")):
        assert torchserve.call(method, path, port=port, key="management").status == 405


def test_every_port_listens_on_loopback_only(torchserve: Running) -> None:
    """Of java and of its workers, which listen on Unix sockets."""
    addresses = {
        (entry.laddr.ip, entry.laddr.port)
        for process in session_members(torchserve.child.pid)
        for entry in process.net_connections("inet")
        if entry.status == psutil.CONN_LISTEN
    }
    assert {port for _, port in addresses} == set(range(22030, 22035))
    assert {ip.removeprefix("::ffff:") for ip, _ in addresses} == {"127.0.0.1"}


def test_nothing_is_logged_per_request(torchserve: Running) -> None:
    """The workers' two lines per request cost a tenth of the time, and the log would grow for ever."""
    before = torchserve.child.launch.log.stat().st_size
    for _ in range(5):
        torchserve.predict(1, np.ones((1, 1), np.float32))
    time.sleep(0.5)
    assert torchserve.child.launch.log.stat().st_size == before


def test_killed_java_takes_its_workers_along(torchserve: Running) -> None:
    """They notice the closed socket; last in this file, for it ends the server."""
    assert len(session_members(torchserve.child.pid)) == 4
    os.kill(torchserve.child.pid, signal.SIGKILL)
    wait_until(torchserve.child.gone, 10)
