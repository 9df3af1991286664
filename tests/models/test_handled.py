"""The archives through the handler that TorchServe runs: unpacked as it unpacks them, asked as the gateway asks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from ts.context import Context, RequestProcessor

from models import frameworks
from models.artifacts import Artifact, Store
from models.catalog import CATALOG
from models.probes import as_array, probes
from models.spec import Array, ModelSpec
from serving.handler import TensorHandler
from tests.serving.tensors import LENGTH, answer, request, tensor


def asked(handler: TensorHandler, spec: ModelSpec, *batch: tuple[Array, ...]) -> list[dict[str, Array]]:
    """The answers to the requests of one of TorchServe's batches."""
    sent = [request(*(named(one.name, array) for one, array in zip(spec.inputs, row, strict=True))) for row in batch]
    made = Context("model", "", None, len(sent), None, "0.12.0")
    made.request_processor = [RequestProcessor({LENGTH: str(length)}) for _, length in sent]
    raw = handler.handle([{"body": bytearray(body)} for body, _ in sent], made)
    headers = (made.get_response_headers(place) for place in range(len(sent)))
    return [answer(body, int(header[LENGTH])) for body, header in zip(raw, headers, strict=True)]


def named(name: str, array: Array) -> tuple[dict[str, object], bytes]:
    return tensor(name, [text.decode() for text in array] if array.dtype == object else array)


@pytest.mark.parametrize("spec", CATALOG.values(), ids=list(CATALOG))
def test_the_handler_answers_as_the_model_does(trained: Store, spec: ModelSpec, tmp_path: Path) -> None:
    """The example alone, then three requests of different rows that share a forward pass: all outputs of each."""
    with zipfile.ZipFile(trained.path(Artifact(spec.name, 1, "pytorch"))) as archive:
        archive.extractall(tmp_path)
    handler = TensorHandler()
    handler.initialize(Context("model", str(tmp_path), None, 0, None, "0.12.0"))
    predict = frameworks.load("pytorch").load_predictor(tmp_path / "model.pt", spec)
    example = tuple(as_array(one, spec.example().inputs[one.name]) for one in spec.inputs)
    rows = probes(spec, 60, seed=2)
    parts = [tuple(array[start:end] for array in rows) for start, end in ((0, 1), (1, 3), (3, 60))]
    for batch in ([example], parts):
        for inputs, answered in zip(batch, asked(handler, spec, *batch), strict=True):
            assert list(answered) == [one.name for one in spec.outputs]
            for given, expected in zip(answered.values(), predict(inputs), strict=True):
                np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
