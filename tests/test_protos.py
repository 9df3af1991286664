from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLIENTS = [
    "tritonclient.grpc",
    "tritonclient.grpc.aio",
    "tensorflow_serving.apis.prediction_service_pb2_grpc",
    "tensorflow_serving.apis.model_service_pb2_grpc",
]
OURS = ["gateway.app", *(f"gateway.protos.{path.stem}" for path in sorted((ROOT / "gateway/protos").glob("*_pb2.py")))]
#: What each package writes, ours reads, and the other way round: the same wire under names of our own.
EXCHANGE = """
triton = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"x"])
ours = gateway.protos.v2_pb2.ModelInferRequest.FromString(triton.SerializeToString())
assert (ours.model_name, ours.id, list(ours.raw_input_contents)) == ("m", "7", [b"x"])
serving = tensorflow_serving.apis.predict_pb2.PredictRequest()
serving.model_spec.name, serving.model_spec.version.value = "m", 3
ours = gateway.protos.tfserving_pb2.PredictRequest.FromString(serving.SerializeToString())
assert (ours.model_spec.name, ours.model_spec.version.value) == ("m", 3)
assert serving == type(serving).FromString(ours.SerializeToString())
"""


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([*CLIENTS, *OURS], id="gateway last"),
        pytest.param([*OURS, *CLIENTS], id="gateway first", marks=pytest.mark.full),
    ],
)
def test_the_gateway_lives_beside_its_clients_packages_in_one_process(order: list[str]) -> None:
    """Triton's, KServe's and MLServer's packages collide in the default descriptor pool; ours must not."""
    code = "\n".join(f"import {name}" for name in order) + EXCHANGE
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
