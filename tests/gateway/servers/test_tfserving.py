from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway import errors
from gateway.servers.tfserving.client import TFServing
from gateway.servers.tfserving.files import BatchingParametersFile
from gateway.types import InferRequest, Rows, Tensor, TensorSpec, VersionMetadata
from tests.fakes.tfserving import FakeTFServing

pytestmark = pytest.mark.anyio

REQUEST = InferRequest("m", (Tensor("x", "FP32", np.array([[1.5], [2]], np.float32)),), version=2)


@pytest.fixture
def server() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"m": [1, 2]})
    yield fake
    fake.close()


async def test_tensors_go_out_raw_and_come_back_typed(server: FakeTFServing) -> None:
    backend = TFServing(server.endpoint, variant="tensorflow")
    response = await backend.infer(REQUEST)
    assert (response.variant, response.version) == ("tensorflow", 2)
    assert response.outputs[0].data.tolist() == [[3.0], [4.0]]
    assert server.predicted[0].inputs["x"].tensor_content == REQUEST.inputs[0].data.tobytes()
    await backend.aclose()


async def test_metadata_tells_versions_and_signature(server: FakeTFServing) -> None:
    backend = TFServing(server.endpoint, variant="tensorflow")
    metadata = await backend.metadata("m")
    assert metadata.default == 2
    assert metadata.versions[1].signature is not None
    assert metadata.versions[1].signature.inputs == (TensorSpec("x", "FP32", (-1, 1)),)
    await backend.aclose()


async def test_what_is_left_of_the_deadline_travels_to_the_server(server: FakeTFServing) -> None:
    backend = TFServing(server.endpoint, variant="tensorflow")
    deadline = asyncio.get_running_loop().time() + 5
    await backend.infer(InferRequest("m", REQUEST.inputs, version=2, deadline=deadline))
    await backend.infer(REQUEST)
    limited, unlimited = server.timeouts
    assert limited is not None
    assert 0 < limited < 6
    assert unlimited is None or unlimited > 1e6
    await backend.aclose()


async def test_a_server_that_is_late_is_deadline_exceeded(server: FakeTFServing) -> None:
    server.delay_seconds = 0.5
    backend = TFServing(server.endpoint, variant="tensorflow")
    deadline = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(errors.DeadlineExceeded):
        await backend.infer(InferRequest("m", REQUEST.inputs, version=2, deadline=deadline))
    await backend.aclose()


async def test_an_answer_that_is_no_tensor_is_data_loss(server: FakeTFServing) -> None:
    server.garbage = True
    backend = TFServing(server.endpoint, variant="tensorflow")
    with pytest.raises(errors.DataLoss, match="takes 8 bytes, got 3"):
        await backend.infer(REQUEST)
    await backend.aclose()


async def test_unknown_models_are_not_found(server: FakeTFServing) -> None:
    backend = TFServing(server.endpoint, variant="tensorflow")
    with pytest.raises(errors.NotFound, match="Could not find any versions of model nope"):
        await backend.metadata("nope")
    await backend.aclose()


async def test_a_server_that_comes_back_is_called_again_soon() -> None:
    fake = FakeTFServing({"m": [2]})
    backend = TFServing(fake.endpoint, variant="tensorflow")
    await backend.infer(REQUEST)
    fake.close()
    with pytest.raises(errors.Unavailable, match=r"^TensorFlow Serving cannot be reached$"):
        await backend.infer(REQUEST)
    again = FakeTFServing({"m": [2]}, port=fake.port)
    try:
        for _ in range(100):
            try:
                await backend.infer(REQUEST)
                break
            except errors.Unavailable:
                await asyncio.sleep(0.1)
        else:
            pytest.fail("not called again within 10 s")
    finally:
        again.close()
        await backend.aclose()


async def described(server: FakeTFServing, text: bytes | None) -> VersionMetadata:
    server.duet = text
    backend = TFServing(server.endpoint, variant="tensorflow")
    metadata = await backend.metadata("m")
    await backend.aclose()
    return metadata.versions[2]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (b'{"rows": "independent", "inputs": []}', Rows.INDEPENDENT),
        (b'{"rows": "dependent"}', Rows.DEPENDENT),
        (b'{"rows": "perhaps"}', Rows.UNKNOWN),
        (b'{"inputs": []}', Rows.UNKNOWN),
        (b"[1]", Rows.UNKNOWN),
        (b"{", Rows.UNKNOWN),
        (b"", Rows.UNKNOWN),
        (None, Rows.UNKNOWN),
    ],
)
async def test_duets_own_server_reports_what_the_artifact_says(
    server: FakeTFServing, text: bytes | None, rows: Rows
) -> None:
    """Of the default signature. TensorFlow's own server refuses to, with which all else goes on as ever."""
    version = await described(server, text)
    assert version.signature is not None
    assert version.signature.rows is rows
    assert {found.rows for name, found in version.signatures.items() if name != "serving_default"} == {Rows.UNKNOWN}


async def test_another_artifact_of_the_same_number_is_told_apart(server: FakeTFServing) -> None:
    found = [
        (await described(server, text)).artifact for text in (b'{"fingerprint": "a"}', b'{"fingerprint": "b"}', None)
    ]
    assert len(set(found)) == 3
    assert found[2] == ""


async def test_the_servers_own_parameters_say_that_it_batches(server: FakeTFServing, tmp_path: Path) -> None:
    """Read again when they change; while they cannot be read nothing is known, and the log names the setting once."""
    path = tmp_path / "batching.txt"
    path.write_text(
        "max_batch_size { value: 32 }\nbatch_timeout_micros { value: 100 }\npad_variable_length_inputs: true"
    )
    parameters = BatchingParametersFile(path, setting="servers.tensorflow.batching_parameters_file")
    backend = TFServing(server.endpoint, variant="tensorflow", batching_parameters=parameters)

    async def max_rows() -> int | None:
        metadata = await backend.metadata("m")
        assert len({version.batching for version in metadata.versions.values()}) == 1
        batching = metadata.versions[1].batching
        return None if batching is None else batching.max_rows

    assert await max_rows() == 32
    path.write_text("num_batch_threads { value: 4 }")
    assert await max_rows() == 1000
    await backend.aclose()


@pytest.mark.parametrize("text", ["max_batch_size { value: }", "max_batch_size { value: 0 }", None], ids=str)
async def test_parameters_that_cannot_be_used_are_logged_once(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "batching.txt"
    path.write_text("max_batch_size { value: 8 }")
    parameters = BatchingParametersFile(path, setting="servers.t.batching_parameters_file")
    assert parameters.batching() is not None
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert parameters.batching() is None
    assert parameters.batching() is None
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("servers.t.batching_parameters_file: ")
    path.write_text("max_batch_size { value: 9 }")
    found = parameters.batching()
    assert found is not None
    assert found.max_rows == 9
