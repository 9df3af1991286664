"""Every front x every server, with batching and without: the real TorchServe and the TensorFlow server.

The last tests take a server away. `tests/conftest.py` runs this file after the others of the stack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import psutil
import pytest

from models.catalog import CATALOG
from tests.fronts import FRONTS, Arrays, Front, Refused, v2_rest_binary
from tests.stack import Stack, second_gateway

VARIANTS = ("tensorflow", "pytorch")
pytestmark = [
    pytest.mark.parametrize("variant", VARIANTS),
    pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS.keys()),
]


@pytest.fixture(scope="module")
def _unbatched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Stack], Stack]]:
    """A second gateway over the same servers that sends each request as it comes."""
    with ExitStack() as opened:
        made: dict[int, Stack] = {}

        def gateway(stack: Stack) -> Stack:
            if stack.http_port not in made:
                folder = tmp_path_factory.mktemp("unbatched")
                opened_one = second_gateway(stack, folder, batching={"enabled": False})
                made[stack.http_port] = opened.enter_context(opened_one)
            return made[stack.http_port]

        yield gateway


@pytest.fixture
def servers(stack: Stack, _stacks: list[Stack]) -> Stack:
    """Who started the servers that ``stack`` calls."""
    return _stacks[-1]


@pytest.fixture(params=["batched", "unbatched"])
def stack(request: pytest.FixtureRequest, stack: Stack, _unbatched: Callable[[Stack], Stack]) -> Stack:
    return stack if request.param == "batched" else _unbatched(stack)


def array(values: Any, datatype: str) -> np.ndarray[Any, Any]:
    if datatype == "BYTES":
        return np.vectorize(str.encode, otypes=[object])(np.array(values, object))
    return np.array(values, {"FP32": np.float32, "INT64": np.int64}[datatype])


def example(model: str) -> dict[str, np.ndarray[Any, Any]]:
    spec = CATALOG[model]
    return {tensor.name: array(spec.example().inputs[tensor.name], tensor.datatype) for tensor in spec.inputs}


def random_rows(count: int) -> Arrays:
    """Numbers whose decimals are long: what JSON rounds would be seen."""
    return {"pixels": np.random.default_rng(7).random((count, 64), np.float32)}


def check(stack: Stack, front: Front, model: str, variant: str, inputs: Arrays) -> Arrays:
    """The answer, which must be that of the canonical form, bit for bit."""
    found = front(stack, model, variant, inputs, version=None, seconds=None)
    expected = v2_rest_binary(stack, model, variant, inputs, version=None, seconds=None)
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape, name
        assert found[name].dtype == wanted.dtype, name
        assert found[name].tobytes() == wanted.tobytes() if wanted.dtype != object else (found[name] == wanted).all()
    return found


def refusal(stack: Stack, front: Front, model: str, variant: str, inputs: Arrays, **more: Any) -> str:
    with pytest.raises(Refused) as caught:
        front(stack, model, variant, inputs, **{"version": None, "seconds": None, **more})
    return caught.value.code


def test_one_float_tensor(stack: Stack, front: Front, variant: str) -> None:
    found = check(stack, front, "linear_regression", variant, {"x": np.array([[5]], np.float32)})
    assert abs(found["y"][0, 0] - 4) < 0.01


def test_several_inputs_and_outputs(stack: Stack, front: Front, variant: str) -> None:
    found = check(stack, front, "lstm_text_generator", variant, example("lstm_text_generator"))
    assert len(found) == 3


def test_strings(stack: Stack, front: Front, variant: str) -> None:
    text = array(["not bad at all", "Ünïcode 你好", "", "word " * 200], "BYTES")
    found = check(stack, front, "text_classifier", variant, {"text": text})
    assert found["probabilities"].shape == (4, 2)


def test_an_empty_batch(stack: Stack, front: Front, variant: str) -> None:
    found = check(stack, front, "linear_regression", variant, {"x": np.empty((0, 1), np.float32)})
    assert found["y"].size == 0


def test_a_batch_of_64(stack: Stack, front: Front, variant: str) -> None:
    found = check(stack, front, "dense_classifier", variant, random_rows(64))
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), np.ones(64), rtol=1e-5)


def test_an_unknown_model(stack: Stack, front: Front, variant: str) -> None:
    assert refusal(stack, front, "nobody", variant, {"x": np.ones((1, 1), np.float32)}) == "NOT_FOUND"


def test_an_unknown_version(stack: Stack, front: Front, variant: str) -> None:
    x = {"x": np.ones((1, 1), np.float32)}
    assert refusal(stack, front, "linear_regression", variant, x, version=99) == "NOT_FOUND"


def test_a_version_of_its_own(stack: Stack, front: Front, variant: str) -> None:
    x = {"x": np.array([[5]], np.float32)}
    found = front(stack, "linear_regression", variant, x, version=1, seconds=None)
    expected = v2_rest_binary(stack, "linear_regression", variant, x, version=1, seconds=None)
    assert found["y"].tobytes() == expected["y"].tobytes()


def test_a_wrong_shape(stack: Stack, front: Front, variant: str) -> None:
    x = {"x": np.ones((2, 3), np.float32)}
    assert refusal(stack, front, "linear_regression", variant, x) == "INVALID_ARGUMENT"


def test_a_deadline_that_is_over(stack: Stack, front: Front, variant: str) -> None:
    x = {"x": np.ones((1, 1), np.float32)}
    assert refusal(stack, front, "linear_regression", variant, x, seconds=1e-4) == "DEADLINE_EXCEEDED"


def test_a_server_that_is_down(servers: Stack, stack: Stack, front: Front, variant: str) -> None:
    kill(servers, stack, variant)
    x = {"x": np.ones((1, 1), np.float32)}
    assert refusal(stack, front, "linear_regression", variant, x) == "UNAVAILABLE"


def kill(servers: Stack, stack: Stack, variant: str) -> None:
    """Kills the variant's server unless it is down already, and waits until the gateway knows."""
    path = f"/v2/models/linear_regression@{variant}/ready"
    if stack.client.get(path).status_code == 200:
        mark = {"tensorflow": "serving.embedded", "pytorch": "org.pytorch.serve.ModelServer"}[variant]
        # None where it was killed for the other gateway, and this one does not know yet.
        for child in [child for child in servers.children() if mark in " ".join(cmdline(child))]:
            child.kill()
    deadline = time.monotonic() + 10
    while stack.client.get(path).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
