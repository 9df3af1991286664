from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from gateway import errors
from gateway.backends.tfserving import TFServing
from gateway.types import InferRequest, Tensor, TensorSpec
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
