from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.fakes.torchserve import FakeTorchServe
from tests.stack import free_ports

TOKEN = "of-the-operator"
OWN = "of-torchserve"


@dataclass
class Door:
    client: httpx.Client
    torchserve: FakeTorchServe
    key_file: Path


def keys(path: Path, key: str) -> Path:
    path.write_text(json.dumps({"management": {"key": key}, "inference": {"key": key}}))
    return path


@contextmanager
def opened(tmp_path: Path) -> Iterator[Door]:
    torchserve = FakeTorchServe({"m": ["1"]})
    torchserve.key = OWN
    key_file = keys(tmp_path / "key_file.json", OWN)
    [port] = free_ports(1)
    options = {"host": "127.0.0.1", "port": str(port), "inference": torchserve.url, "management": torchserve.url}
    options |= {"token-file": str(keys(tmp_path / "token.json", TOKEN)), "key-file": str(key_file)}
    process = subprocess.Popen([sys.executable, "-m", "gateway.door", *(f"--{k}={v}" for k, v in options.items())])
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10)
    try:
        wait_until_it_listens(client, process)
        yield Door(client, torchserve, key_file)
    finally:
        process.terminate()
        assert process.wait(20) == 0
        client.close()
        torchserve.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("door")) as door:
        yield door


def wait_until_it_listens(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            client.get("/ping")
            return
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_caller_with_the_operators_token_reads_models_though_torchserve_has_another(door: Door) -> None:
    answer = door.client.get("/models?limit=10", headers=bearing(TOKEN))
    assert answer.status_code == 200
    assert [model["modelName"] for model in answer.json()["models"]] == ["m"]


@pytest.mark.parametrize("headers", [{}, bearing("wrong"), bearing(OWN), {"Authorization": TOKEN}])
@pytest.mark.parametrize(("method", "path"), [("GET", "/models"), ("POST", "/predictions/m")])
def test_without_the_operators_token_nothing_is_told(
    door: Door, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = door.client.request(method, path, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["type"] == "InvalidKeyException"
    assert not door.torchserve.predicted


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/models?url=http://example.com/evil.mar"),
        ("PUT", "/models/m?min_worker=9"),
        ("DELETE", "/models/m"),
        ("DELETE", "/models/m/1"),
        ("GET", "/token?type=inference"),
        ("GET", "/workflows"),
        ("POST", "/workflows"),
        ("GET", "/metrics"),
        ("GET", "/api-description"),
        ("GET", "/"),
        ("GET", "/models/m?url=http://example.com"),
        ("GET", "/models/m/1/../../../token"),
        ("GET", "/models//m"),
        ("GET", "/predictions/m"),
        ("POST", "/predictions/m/1/x"),
        ("POST", "/predictions/m?x=1"),
        ("POST", "/explanations/m"),
        ("OPTIONS", "/predictions/m"),
        ("POST", "/ping"),
    ],
)
def test_nothing_else_of_torchserve_is_there(door: Door, method: str, path: str) -> None:
    """Even for who bears the token."""
    assert door.client.request(method, path, headers=bearing(TOKEN)).status_code == 404


def test_anybody_may_ask_whether_torchserve_is_there(tmp_path: Path) -> None:
    with opened(tmp_path) as door:
        assert door.client.get("/ping").status_code == 200
        door.torchserve.close()
        answer = door.client.get("/ping")
        assert answer.status_code == 502
        assert "127.0.0.1" not in answer.text


def test_a_torchserve_that_was_started_anew_is_called_with_its_new_key(tmp_path: Path) -> None:
    with opened(tmp_path) as door:
        assert door.client.get("/models", headers=bearing(TOKEN)).status_code == 200
        door.torchserve.key = "another"
        keys(door.key_file, "another")
        assert door.client.get("/models", headers=bearing(TOKEN)).status_code == 200


def test_without_a_token_the_door_does_not_start(tmp_path: Path) -> None:
    empty = keys(tmp_path / "token.json", "")
    empty.write_text("{}")
    options = ["--inference=http://127.0.0.1:1", "--management=http://127.0.0.1:1", f"--token-file={empty}"]
    done = subprocess.run(
        [sys.executable, "-m", "gateway.door", *options, "--key-file=none"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "must hold" in done.stderr
