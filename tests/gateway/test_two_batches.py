"""Inputs whose first dimensions are free and differ: one query against any number of candidates.

The kind is every request with more than one number of rows in it. It is answered in every dialect and by both
frameworks, and is never joined with another; the model alone knows which numbers of rows fit together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gateway.types import TensorSpec
from tests import fronts
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import PAIR, FakeTorchServe
from tests.gateway.conftest import RunningGateway, start_gateway, wait_for

SPEC = SimpleNamespace(
    inputs=[TensorSpec("query", "FP32", (-1, 2)), TensorSpec("candidates", "FP32", (-1, 2))],
    outputs=[TensorSpec("y", "FP32", (-1, 1))],
)
VARIANTS = ["tensorflow", "pytorch"]


class Running:
    """One gateway before both fakes, which know nothing of rows; the operator says that they are independent."""

    def __init__(self, folder: Any) -> None:
        self.tensorflow, self.pytorch = FakeTFServing({"pair": [1]}), FakeTorchServe({"pair": ["1"]})
        self.pytorch.signature = PAIR
        servers = {
            "tensorflow": {"kind": "tfserving", "endpoint": self.tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": self.pytorch.url, "management": self.pytorch.url},
        }
        batching = {"rows": "independent", "in_flight": 1, "sample_share": 0}
        models = {"pair": {"outputs_by_row": True}}
        self.gateway: RunningGateway = start_gateway(
            {"servers": servers, "models": models, "batching": batching}, folder
        )
        for variant in VARIANTS:
            self.gateway.wait_until(f"/v2/models/pair@{variant}/ready", 200)

    @property
    def stack(self) -> Any:
        return SimpleNamespace(client=self.gateway.client, grpc_port=self.gateway.grpc_port)

    def rows_counted(self, variant: str) -> float:
        lines = self.gateway.admin.get("/metrics").text.splitlines()
        counted = [line for line in lines if line.startswith("duet_rows_total") and f'variant="{variant}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in counted)

    def rows_asked(self) -> list[tuple[int, int]]:
        """The rows of query and candidates in each call that a server got."""
        torch = [
            {entry["name"]: entry["shape"][0] for entry in seen["message"]["inputs"]} for seen in self.pytorch.predicted
        ]
        tensorflow = [
            {name: proto.tensor_shape.dim[0].size for name, proto in request.inputs.items()}
            for request in self.tensorflow.predicted
        ]
        return [(seen["query"], seen["candidates"]) for seen in torch + tensorflow]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("pair"))
    yield found
    found.gateway.stop()
    found.tensorflow.close()
    found.pytorch.close()


@pytest.fixture(autouse=True)
def _spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "spec_of", lambda _: SPEC)


def drawn(queries: int, candidates: int, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((rows, 2)).astype(np.float32)
        for name, rows in (("query", queries), ("candidates", candidates))
    }


def expected(inputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return (inputs["query"] * inputs["candidates"]).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("front", fronts.FRONTS)
@pytest.mark.parametrize("sizes", [(1, 5), (1, 2), (1, 3), (4, 4)], ids=str)
def test_they_are_answered_in_every_dialect(running: Running, front: str, variant: str, sizes: tuple[int, int]) -> None:
    inputs = drawn(*sizes)
    found = fronts.FRONTS[front](running.stack, "pair", variant, inputs, version=None, seconds=None)["y"]
    assert np.allclose(found, expected(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("front", fronts.FRONTS)
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["as declared", "the other way round"])
def test_their_rows_are_counted_alike_in_every_dialect(
    running: Running, monkeypatch: pytest.MonkeyPatch, front: str, variant: str, order: slice
) -> None:
    """The candidates, for which the query is repeated; not those of the input that its client happens to name first."""
    monkeypatch.setattr(fronts, "spec_of", lambda _: SimpleNamespace(inputs=SPEC.inputs[order], outputs=SPEC.outputs))
    before = running.rows_counted(variant)
    fronts.FRONTS[front](running.stack, "pair", variant, drawn(1, 5), version=None, seconds=None)
    wait_for(lambda: running.rows_counted(variant) != before, "the answer to be counted")
    assert running.rows_counted(variant) == before + 5


def torchserve_bodies(inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, dict[str, Any]]:
    values = {name: array.tolist() for name, array in inputs.items()}
    entries = [
        {"name": name, "datatype": "FP32", "shape": array.shape, "data": array.ravel().tolist()}
        for name, array in inputs.items()
    ]
    return {
        "inputs": {"json": {"inputs": values}},
        "v2": {"json": {"inputs": entries}},
        "multipart": {"files": {name: (None, json.dumps(value)) for name, value in values.items()}},
        "form": {"data": {name: json.dumps(value) for name, value in values.items()}},
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["inputs", "v2", "multipart", "form"])
def test_they_are_answered_in_every_form_of_torchserves_dialect(running: Running, form: str, variant: str) -> None:
    inputs = drawn(1, 3)
    answer = running.gateway.client.post(f"/predictions/pair@{variant}", **torchserve_bodies(inputs)[form])
    assert answer.status_code == 200, answer.text
    told = answer.json()
    value = told["outputs"][0]["data"] if form == "v2" else told["outputs"] if form == "inputs" else told
    assert np.allclose(np.ravel(value), expected(inputs).ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_tensorflows_dialect_have_one_of_each(running: Running, variant: str) -> None:
    """``instances`` are rows: there every input has as many as there are."""
    inputs = drawn(3, 3)
    rows = [{name: array[index].tolist() for name, array in inputs.items()} for index in range(3)]
    answer = running.gateway.client.post(f"/v1/models/pair@{variant}:predict", json={"instances": rows})
    assert np.allclose(answer.json()["predictions"], expected(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_they_are_never_joined_and_others_beside_them_are(running: Running, variant: str) -> None:
    running.pytorch.delay_seconds = running.tensorflow.delay_seconds = 0.02
    running.pytorch.predicted.clear()
    running.tensorflow.predicted.clear()
    calls = [drawn(1, 3, seed) if seed % 2 else drawn(2, 2, seed) for seed in range(24)]

    def ask(inputs: dict[str, np.ndarray[Any, Any]]) -> Any:
        front = fronts.FRONTS["v2_rest_binary"]
        return front(running.stack, "pair", variant, inputs, version=None, seconds=None)["y"]

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, calls))
    running.pytorch.delay_seconds = running.tensorflow.delay_seconds = 0.0
    for inputs, found in zip(calls, answers, strict=True):
        assert np.allclose(found, expected(inputs), rtol=1e-5, atol=1e-6)
    asked = running.rows_asked()
    assert asked.count((1, 3)) == 12
    assert {query for query, candidates in asked if query != candidates} == {1}
    assert any(query == candidates > 2 for query, candidates in asked)


def test_what_the_model_cannot_fit_together_is_the_models_to_refuse(running: Running) -> None:
    """The gateway does not know that 2 and 3 rows make no sense here; a bad caller costs nobody else an answer."""
    for variant in VARIANTS:
        with pytest.raises(fronts.Refused):
            fronts.v2_rest_binary(running.stack, "pair", variant, drawn(2, 3), version=None, seconds=None)
        inputs = drawn(1, 2)
        found = fronts.v2_rest_binary(running.stack, "pair", variant, inputs, version=None, seconds=None)["y"]
        assert np.allclose(found, expected(inputs), rtol=1e-5, atol=1e-6)
