from __future__ import annotations

import subprocess
import sys

import pytest

PACKAGES = [
    "tritonclient.grpc",
    "tensorflow_serving.apis.predict_pb2",
    "gateway.protos.tfserving_pb2",
    "gateway.protos.v2_pb2",
    "gateway.protos.health_pb2",
]


@pytest.mark.parametrize("order", [PACKAGES, PACKAGES[::-1]], ids=["gateway last", "gateway first"])
def test_our_stubs_live_beside_other_packages_in_one_process(order: list[str]) -> None:
    """Triton's, KServe's and MLServer's packages collide in the default descriptor pool; ours must not."""
    code = "; ".join(f"import {name}" for name in order)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
