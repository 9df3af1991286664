"""One gateway process for the tests of the v2 front; a module with other needs has fixtures of the same names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway
from tests.gateway.transports import GRPC, serving_grpc

VARIANTS = ("tensorflow", "pytorch")


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"double": [1, 3]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"double": ["3", "1"]})
    yield fake
    fake.close()


def settings(tensorflow: FakeTFServing, pytorch: FakeTorchServe) -> dict[str, Any]:
    return {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {"double": {}, "absent": {}},
        "grpc": {"reflection": True},
        "default_deadline_seconds": 5,
        "drain_seconds": 10,
    }


@pytest.fixture(scope="module", params=GRPC)
def gateway(
    request: pytest.FixtureRequest,
    tensorflow: FakeTFServing,
    pytorch: FakeTorchServe,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningGateway]:
    """Once on each transport: what a client sees is the same."""
    ready = [f"double@{variant}" for variant in VARIANTS]
    folder = tmp_path_factory.mktemp("gateway")
    with serving_grpc(request.param, settings(tensorflow, pytorch), folder, *ready) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{gateway.grpc_port}") as client:
        yield client


@pytest.fixture(scope="module")
def channel(gateway: RunningGateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        yield channel
