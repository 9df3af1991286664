"""TorchServe's documented calls to models of both frameworks: curl itself, and stubs of TorchServe's own protos.

Sources: serve docs/inference_api.md, docs/grpc_api.md, ts_scripts/torchserve_grpc_client.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fronts import Arrays, jsonable, torchserve_answer, v2_rest_binary
from tests.integration.clients.examples import VARIANTS, examples
from tests.stack import Stack

SCRIPT = Path(__file__).with_name("torchserve_calls.py")
LINEAR, STRINGS, STATEFUL = "linear_regression", "text_classifier", "lstm_text_generator"
NAMES = [f"{model}@{variant}" for model in (LINEAR, STRINGS, STATEFUL) for variant in VARIANTS]
BOTH = pytest.mark.parametrize("variant", VARIANTS)
EVERY = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def curl(stack: Stack, tmp_path: Path) -> Any:
    """``curl URL ARGUMENTS``, with the files of ``tmp_path`` at hand."""

    def run(path: str, *arguments: str) -> Got:
        url = f"http://127.0.0.1:{stack.http_port}{path}"
        written = ["--output", "body", "--dump-header", "headers", "--write-out", "%{http_code}"]
        done = subprocess.run(
            ["curl", "-sS", url, *arguments, *written], cwd=tmp_path, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "headers").read_text().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        return Got(int(done.stdout), headers, (tmp_path / "body").read_bytes())

    return run


def canonical(stack: Stack, name: str, version: int | None = None) -> Arrays:
    model, _, variant = name.partition("@")
    return v2_rest_binary(stack, model, variant, examples(model), version=version, seconds=None)


def same(name: str, value: Any, expected: Arrays) -> None:
    """The answer is the canonical one, bit for bit."""
    found = torchserve_answer(name.partition("@")[0], value)
    for output, wanted in expected.items():
        assert (found[output].shape, found[output].tobytes()) == (wanted.shape, wanted.tobytes())


def test_curl_pings_and_asks_what_there_is(curl: Any) -> None:
    assert curl("/ping").json() == {"status": "Healthy"}
    described = curl("", "-X", "OPTIONS").json()
    assert described["openapi"] == "3.0.1"
    assert "/predictions/{model_name}" in described["paths"]
    assert f"/predictions/{LINEAR}" in curl(f"/predictions/{LINEAR}", "-X", "OPTIONS").json()["paths"]


@EVERY
def test_curl_uploads_a_file(curl: Any, stack: Stack, tmp_path: Path, name: str) -> None:
    """``-T FILE`` is a PUT without a type."""
    values = {key: jsonable(array) for key, array in examples(name.partition("@")[0]).items()}
    (tmp_path / "sample").write_text(json.dumps(values))
    got = curl(f"/predictions/{name}", "-T", "sample")
    assert got.headers["x-duet-variant"] == name.partition("@")[2]
    same(name, got.json(), canonical(stack, name))


@BOTH
@pytest.mark.parametrize(
    ("content", "arguments"),
    [
        (b"[[5]]", ["-F", "data=@sample"]),
        (np.float32([[5]]).tobytes(), ["-T", "sample"]),
        (np.float32([[5]]).tobytes(), ["-F", "data=@sample"]),
    ],
    ids=["JSON in a form", "raw bytes", "raw bytes in a form"],
)
def test_curl_sends_numbers(curl: Any, tmp_path: Path, variant: str, content: bytes, arguments: list[str]) -> None:
    (tmp_path / "sample").write_bytes(content)
    (row,) = curl(f"/predictions/{LINEAR}@{variant}", *arguments).json()
    assert row == pytest.approx([4], abs=0.01)


@BOTH
@pytest.mark.parametrize("arguments", [["-T", "sample"], ["-F", "data=@sample"]], ids=["upload", "form"])
def test_curl_sends_text(curl: Any, stack: Stack, tmp_path: Path, variant: str, arguments: list[str]) -> None:
    """One text is one row; TorchServe's own text classifier answers so too."""
    (tmp_path / "sample").write_bytes(examples(STRINGS)["text"][0])
    (expected, *_) = canonical(stack, f"{STRINGS}@{variant}")["probabilities"]
    assert np.float32(curl(f"/predictions/{STRINGS}@{variant}", *arguments).json()) == pytest.approx(expected, rel=1e-5)


@BOTH
def test_curl_names_each_of_several_inputs(curl: Any, stack: Stack, tmp_path: Path, variant: str) -> None:
    arguments = []
    for key, array in examples(STATEFUL).items():
        (tmp_path / key).write_text(json.dumps(array.tolist()))
        arguments += ["-F", f"{key}=@{key}"]
    name = f"{STATEFUL}@{variant}"
    same(name, curl(f"/predictions/{name}", *arguments).json(), canonical(stack, name))


@BOTH
def test_curl_asks_for_a_version_of_its_own(curl: Any, stack: Stack, tmp_path: Path, variant: str) -> None:
    """TorchServe's versions look like 1.0; the header pins the framework."""
    (tmp_path / "sample").write_text(json.dumps(examples(LINEAR)["x"].tolist()))
    got = curl(f"/predictions/{LINEAR}/1.0", "-T", "sample", "-H", f"x-duet-variant: {variant}")
    assert (got.headers["x-duet-variant"], got.headers["x-duet-version"]) == (variant, "1")
    same(LINEAR, got.json(), canonical(stack, f"{LINEAR}@{variant}", version=1))


@BOTH
def test_curl_calls_kserves_older_protocol(curl: Any, stack: Stack, tmp_path: Path, variant: str) -> None:
    (tmp_path / "mnist.json").write_text(json.dumps({"instances": examples(LINEAR)["x"].tolist()}))
    arguments = ["-H", "Content-Type: application/json", "--data", "@mnist.json"]
    got = curl(f"/v1/models/{LINEAR}@{variant}:predict", *arguments)
    same(LINEAR, got.json()["predictions"], canonical(stack, f"{LINEAR}@{variant}"))


def test_curl_is_told_what_is_wrong_in_torchserves_words(curl: Any, tmp_path: Path) -> None:
    (tmp_path / "sample").write_text("[[5]]")
    (tmp_path / "broken").write_text("[[5")
    for path, file, status, kind in (
        ("/predictions/nobody", "sample", 404, "ModelNotFoundException"),
        (f"/predictions/{LINEAR}/9.0", "sample", 404, "ModelVersionNotFoundException"),
        (f"/predictions/{LINEAR}", "broken", 400, "BadRequestException"),
        (f"/explanations/{LINEAR}", "sample", 404, "ResourceNotFoundException"),
    ):
        got = curl(path, "-T", file)
        assert got.status == status
        assert {**got.json(), "message": ""} == {"code": status, "type": kind, "message": ""}
        assert got.json()["message"]


@pytest.fixture(scope="module")
def _runs() -> list[subprocess.CompletedProcess[str]]:
    return []


@pytest.fixture
def told(stack: Stack, torchserve_stubs: Path, _runs: list[subprocess.CompletedProcess[str]]) -> Any:
    """What the stubs got, all in one run."""
    if not _runs:
        asked = {"calls": {name: as_asked(name) for name in NAMES}, "linear": as_asked(LINEAR), "variants": VARIANTS}
        command = [sys.executable, str(SCRIPT), str(torchserve_stubs), f"127.0.0.1:{stack.grpc_port}"]
        _runs.append(
            subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=60, check=False)
        )
    assert _runs[0].returncode == 0, _runs[0].stderr
    return json.loads(_runs[0].stdout)


def as_asked(name: str) -> dict[str, str]:
    """Inputs as the documented client sends them: bytes under ``data``, of several inputs under their names."""
    arrays = examples(name.partition("@")[0])
    texts = {key: json.dumps(jsonable(array)) for key, array in arrays.items()}
    return texts if len(texts) > 1 else {"data": next(iter(texts.values()))}


def test_the_stubs_ping(told: dict[str, Any]) -> None:
    assert told["ping"] == {"status": "Healthy"}


@EVERY
def test_the_stubs_predict(told: dict[str, Any], stack: Stack, name: str) -> None:
    """Numbers, strings, several inputs and outputs; a stream has one answer."""
    same(name, told[name], canonical(stack, name))
    assert told[f"stream {name}"] == [told[name]]


@BOTH
def test_the_stubs_ask_for_a_version_and_a_framework(told: dict[str, Any], stack: Stack, variant: str) -> None:
    *served, value = told[f"pin {variant}"]
    assert served == [variant, "1"]
    same(LINEAR, value, canonical(stack, f"{LINEAR}@{variant}", version=1))


def test_the_stubs_are_told_what_is_wrong(told: dict[str, Any]) -> None:
    assert told["unknown model"] == ["NOT_FOUND", "Model not found: nobody"]
    assert told["unknown version"][0] == "NOT_FOUND"
    assert told["no JSON"][0] == "INVALID_ARGUMENT"


def test_a_two_way_stream_answers_in_order_and_outlives_an_error(told: dict[str, Any]) -> None:
    assert [[place, code] for place, code, _ in told["two-way"]] == [["0", 0], ["1", 5], ["2", 0]]
    assert json.loads(told["two-way"][0][2]) == told[f"{LINEAR}@tensorflow"]
    assert json.loads(told["two-way"][2][2]) == told[f"{LINEAR}@pytorch"]
