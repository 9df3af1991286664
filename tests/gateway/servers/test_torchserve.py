from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway import errors
from gateway.servers.torchserve.client import TorchServe
from gateway.types import InferRequest, Rows, Tensor, TensorSpec, VersionMetadata
from tests.fakes.torchserve import SIGNATURE, FakeTorchServe

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


async def told(server: FakeTorchServe, described: dict[str, Any], **of_torchserve: Any) -> VersionMetadata:
    server.signature = {**SIGNATURE, **described}
    server.described = of_torchserve
    backend = client(server)
    metadata = await backend.metadata("m")
    await backend.aclose()
    return metadata.versions[2]


@pytest.mark.parametrize(
    ("word", "rows"),
    [
        ("independent", Rows.INDEPENDENT),
        ("dependent", Rows.DEPENDENT),
        ("unknown", Rows.UNKNOWN),
        ("Independent!", Rows.UNKNOWN),
        (True, Rows.UNKNOWN),
        (["independent"], Rows.UNKNOWN),
        (None, Rows.UNKNOWN),
    ],
)
async def test_what_the_artifact_says_of_its_rows_is_read(server: FakeTorchServe, word: Any, rows: Rows) -> None:
    """The kind: a word of the contract, another word, another type, nothing. Only a clear word is one."""
    version = await told(server, {"rows": word} if word is not None else {})
    assert version.signature is not None
    assert version.signature.rows is rows


async def test_optional_inputs_are_read(server: FakeTorchServe) -> None:
    entries = [{**SIGNATURE["inputs"][0], "name": str(word), "optional": word} for word in (True, False, "yes")]
    version = await told(server, {"inputs": [*SIGNATURE["inputs"], *entries]})
    assert version.signature is not None
    assert [spec.optional for spec in version.signature.inputs] == [False, True, False, False]


@pytest.mark.parametrize(
    ("described", "size", "batches"),
    [
        ({}, 8, True),
        ({"author": "a stranger"}, 2, True),
        ({}, 1, False),
        ({}, None, False),
        ({}, "8", False),
        ({"fingerprint": "sha256:1"}, 8, False),
        ({"rows": "unknown"}, 8, False),
        ({"rows": "dependent"}, 8, False),
    ],
)
async def test_a_batch_size_counts_where_the_handler_is_not_ours(
    server: FakeTorchServe, described: dict[str, Any], size: Any, batches: bool
) -> None:
    """Ours merges what its artifact calls independent, whatever the batch size; a stranger's gets all together."""
    version = await told(server, described, **({} if size is None else {"batchSize": size}))
    assert (version.batching is not None) is batches
    if version.batching is not None:
        assert version.batching.max_rows is None
        assert f"batchSize {size}" in version.batching.why


async def test_another_artifact_of_the_same_number_is_told_apart(server: FakeTorchServe) -> None:
    prints = [(await told(server, {"fingerprint": text})).artifact for text in ("a", "b", "a")]
    assert prints[0] == prints[2] != prints[1]
