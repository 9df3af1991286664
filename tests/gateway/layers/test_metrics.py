from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gateway.backends.base import Backend
from gateway.errors import DuetError, InvalidArgument
from gateway.layers.metrics import Timed
from gateway.metrics import Metrics
from gateway.servers.torchserve.faults import TORCHSERVE
from gateway.types import InferRequest, Tensor

pytestmark = pytest.mark.anyio

REQUEST = InferRequest("m", (Tensor("x", "FP32", np.ones(1, np.float32)),), version=1)


class Failing:
    def __init__(self, failure: DuetError) -> None:
        self.failure = failure

    async def infer(self, _: InferRequest) -> None:
        raise self.failure


async def test_a_servers_failures_are_counted_by_what_they_are() -> None:
    """A server that overloads, one that crashes and one whose models refuse what passed our check need other help."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for status, kind, text in ((503, "ServiceUnavailableException", ""), (500, "x", "Worker died."), (400, "x", "no")):
        inner = cast(Backend, Failing(TORCHSERVE.translated(status, text, kind)))
        with pytest.raises(DuetError):
            await Timed(inner, metrics=metrics, variant="pytorch").infer(REQUEST)
    for fault in ("overload", "crash", "refused"):
        labels = {"model": "m", "variant": "pytorch", "fault": fault}
        assert registry.get_sample_value("duet_server_faults_total", labels) == 1, fault


async def test_a_request_that_we_refuse_is_no_servers_failure() -> None:
    registry = CollectorRegistry()
    inner = cast(Backend, Failing(InvalidArgument("no")))
    with pytest.raises(InvalidArgument):
        await Timed(inner, metrics=Metrics(registry), variant="pytorch").infer(REQUEST)
    assert not [sample for metric in registry.collect() for sample in metric.samples if "faults_total" in sample.name]
