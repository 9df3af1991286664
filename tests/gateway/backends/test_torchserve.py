from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway import errors
from gateway.backends.torchserve import TorchServe
from gateway.types import InferRequest, Tensor, TensorSpec
from tests.fakes.torchserve import FakeTorchServe

pytestmark = pytest.mark.anyio

REQUEST = InferRequest("m", (Tensor("x", "FP32", np.array([[1.5], [2]], np.float32)),), version=2)


@pytest.fixture
def server() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"m": ["1.0", "2"], "odd": ["1.2.3"]})
    yield fake
    fake.close()


def client(server: FakeTorchServe, key_file: Path | None = None) -> TorchServe:
    return TorchServe(server.url, management=server.url, variant="pytorch", key_file=key_file)


async def test_tensors_go_out_and_come_back_in_binary(server: FakeTorchServe) -> None:
    backend = client(server)
    response = await backend.infer(REQUEST)
    assert (response.model, response.variant, response.version) == ("m", "pytorch", 2)
    assert response.outputs[0].name == "y"
    assert response.outputs[0].data.tolist() == [[3.0], [4.0]]
    (seen,) = server.predicted
    assert seen["path"] == "/predictions/m/2"
    assert seen["message"]["inputs"][0]["parameters"] == {"binary_data_size": 8}
    await backend.aclose()


async def test_metadata_tells_versions_signature_and_default(server: FakeTorchServe) -> None:
    """The default is TorchServe's own, which an operator may have set to another than the newest."""
    backend = client(server)
    metadata = await backend.metadata("m")
    assert list(metadata.versions) == [1, 2]
    assert metadata.default == 1
    assert metadata.versions[2].signature is not None
    assert metadata.versions[2].signature.inputs == (TensorSpec("x", "FP32", (-1, 1)),)
    await backend.aclose()


async def test_a_version_is_called_by_the_text_that_torchserve_knows(server: FakeTorchServe) -> None:
    backend = client(server)
    await backend.metadata("m")
    await backend.infer(InferRequest("m", REQUEST.inputs, version=1))
    assert server.predicted[-1]["path"] == "/predictions/m/1.0"
    await backend.aclose()


async def test_a_version_that_is_no_whole_number_is_left_out(server: FakeTorchServe) -> None:
    backend = client(server)
    metadata = await backend.metadata("odd")
    assert (metadata.versions, metadata.default) == ({}, None)
    await backend.aclose()


async def test_without_a_ready_worker_no_version_is_ready(server: FakeTorchServe) -> None:
    server.workers_ready = False
    backend = client(server)
    metadata = await backend.metadata("m")
    assert metadata.default == 1
    assert not metadata.ready
    assert metadata.versions[1].reason == "no worker is ready"
    await backend.aclose()


async def test_unknown_models_are_not_found(server: FakeTorchServe) -> None:
    backend = client(server)
    with pytest.raises(errors.NotFound):
        await backend.metadata("nope")
    await backend.aclose()


async def test_new_keys_are_read_when_the_old_are_refused(server: FakeTorchServe, tmp_path: Path) -> None:
    """TorchServe makes new keys at each start; the file has them before the first call can be answered."""
    path = tmp_path / "key_file.json"

    def write(key: str) -> None:
        entry = {"key": key, "expiration time": "2099-01-01T00:00:00.123456789Z"}
        path.write_text(json.dumps({"management": entry, "inference": entry, "API": {"key": "api"}}))
        server.key = key

    write("one")
    backend = client(server, path)
    await backend.metadata("m")
    await backend.infer(REQUEST)
    write("another")
    assert (await backend.infer(REQUEST)).outputs[0].data.tolist() == [[3.0], [4.0]]
    assert (await backend.metadata("m")).default == 1
    await backend.aclose()
