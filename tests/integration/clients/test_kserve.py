"""The KServe SDK's inference clients, unmodified, each to models of both frameworks.

The SDK pins an older protobuf and registers the messages that tritonclient registers too, so that it lives in an
environment and in a process of its own: `kserve_calls.py` makes the calls and tells what it got.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fronts import Arrays, jsonable, v2_rest_binary
from tests.integration.clients.examples import VARIANTS, examples
from tests.stack import ROOT, Stack

PYTHON = ROOT / ".venv-kserve" / "bin" / "python"
SCRIPT = Path(__file__).with_name("kserve_calls.py")
MODELS = ("linear_regression", "text_classifier", "lstm_text_generator")
NAMES = [f"{model}@{variant}" for model in MODELS for variant in VARIANTS]
EVERY = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def _runs() -> list[subprocess.CompletedProcess[str]]:
    return []


@pytest.fixture
def told(stack: Stack, _runs: list[subprocess.CompletedProcess[str]]) -> Any:
    """What the clients got, by protocol. Importing the SDK takes seconds, so that one run makes all calls."""
    if not _runs:
        _runs.append(calls(stack))
    assert _runs[0].returncode == 0, _runs[0].stderr
    return json.loads(_runs[0].stdout)


def calls(stack: Stack) -> subprocess.CompletedProcess[str]:
    assert PYTHON.exists(), "the KServe SDK's environment is missing; make it with `make kserve`"
    asked = {
        "http": f"http://127.0.0.1:{stack.http_port}",
        "grpc": f"127.0.0.1:{stack.grpc_port}",
        "names": NAMES,
        "variants": VARIANTS,
        "linear": as_asked(examples("linear_regression")),
        "calls": {name: as_asked(examples(name.partition("@")[0])) for name in NAMES},
    }
    return subprocess.run(
        [PYTHON, SCRIPT], input=json.dumps(asked), capture_output=True, text=True, timeout=120, check=False
    )


def as_asked(arrays: Arrays) -> dict[str, Any]:
    kinds = {"f": "FP32", "i": "INT64", "O": "BYTES"}
    return {name: (kinds[array.dtype.kind], jsonable(array)) for name, array in arrays.items()}


def canonical(stack: Stack, name: str, version: int | None = None) -> dict[str, Any]:
    """The canonical answer in the form in which the script tells its own."""
    model, _, variant = name.partition("@")
    arrays = v2_rest_binary(stack, model, variant, examples(model), version=version, seconds=None)
    return {
        output: {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": array.tobytes().hex()}
        for output, array in arrays.items()
    }


def test_health(told: dict[str, Any]) -> None:
    ready = dict.fromkeys(NAMES, True)
    assert told["v1"]["live"] is True
    for protocol, absent in (("v2", "linear_regression/versions/9"), ("grpc", "nobody")):
        assert (told[protocol]["live"], told[protocol]["ready"]) == (True, True)
        assert told[protocol]["models"] == {**ready, absent: False}


@EVERY
@pytest.mark.parametrize("form", ["json", "binary"])
def test_an_answer_over_rest_is_the_canonical_one(told: dict[str, Any], stack: Stack, name: str, form: str) -> None:
    """One float, strings, several inputs and outputs."""
    assert told["v2"][f"{form} {name}"] == canonical(stack, name)


@EVERY
@pytest.mark.parametrize("form", ["typed", "raw"])
def test_an_answer_over_grpc_is_the_canonical_one(told: dict[str, Any], stack: Stack, name: str, form: str) -> None:
    assert told["grpc"][f"{form} {name}"] == canonical(stack, name)


@EVERY
def test_the_older_protocol_reaches_the_same_models(told: dict[str, Any], stack: Stack, name: str) -> None:
    """A single output is unnamed there."""
    assert told["v1"][f"ready {name}"] is True
    expected = canonical(stack, name)
    assert told["v1"][name] == (expected if len(expected) > 1 else {"": next(iter(expected.values()))})


@BOTH
def test_pins_and_versions_hold_over_rest(told: dict[str, Any], stack: Stack, variant: str) -> None:
    *served, outputs = told["v2"][f"pin {variant}"]
    assert served == [variant, "1", "step 7"]
    assert outputs == canonical(stack, f"linear_regression@{variant}", version=1)


@BOTH
def test_pins_and_versions_hold_over_grpc(told: dict[str, Any], stack: Stack, variant: str) -> None:
    *served, outputs = told["grpc"][f"pin {variant}"]
    assert served == ["1", "7"]
    assert outputs == canonical(stack, f"linear_regression@{variant}", version=1)


def test_refusals_say_what_is_wrong(told: dict[str, Any]) -> None:
    texts = {
        "unknown model": "unknown model 'nobody'",
        "unknown version": "has no version 9",
        "wrong shape": "input 'x': shape [1, 2]; the model takes [-1, 1]",
    }
    for protocol, (not_found, invalid) in {"v2": ("404", "400"), "grpc": ("NOT_FOUND", "INVALID_ARGUMENT")}.items():
        for kind, says in texts.items():
            status, text = told[protocol][kind]
            assert (status, says in text) == (invalid if kind == "wrong shape" else not_found, True), text
    assert told["grpc"]["unknown variant"][0] == "NOT_FOUND"
    assert told["v1"]["unknown model"][0] == told["v1"]["unknown model's readiness"][0] == "404"
