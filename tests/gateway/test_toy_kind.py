"""A kind of server is a plug-in: one that lives in the tests is served with nothing in the gateway but its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.servers.kinds import SERVERS
from tests.gateway.conftest import RunningGateway, start_gateway
from tests.gateway.toykind import ToyKind
from tests.peers.calls import MATRIX, Caller

SCRIPT = Path(__file__).with_name("toykind.py")
ENTRY = {"kind": "toy", "endpoint": "localhost:1"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    settings = {"servers": {"toy": ENTRY, "thrice": {**ENTRY, "factor": 3}}}
    running = start_gateway(settings, tmp_path_factory.mktemp("toy"), command=(str(SCRIPT),))
    running.wait_until("/v2/models/double@toy/ready", 200)
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize("dialect", MATRIX)
def test_every_dialect_calls_it(gateway: RunningGateway, dialect: str) -> None:
    caller = Caller(gateway.client, gateway.grpc_port)
    assert MATRIX[dialect](caller, "double@toy", 1.5) == 3.0
    assert MATRIX[dialect](caller, "double@thrice", 1.5) == 4.5


def test_its_failures_come_through_its_own_table(gateway: RunningGateway) -> None:
    refused = gateway.infer("double@toy", [13.0])
    assert (refused.status_code, refused.json()) == (400, {"error": "the toy: x must not begin with 13"})


def test_what_its_settings_refuse_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.servers.kinds.SERVERS", [*SERVERS, ToyKind()])
    assert Settings.model_validate({"servers": {"t": ENTRY}}).model_dump()["servers"]["t"]["factor"] == 2.0
    with pytest.raises(ValueError, match=r"servers\.t\.factor"):
        Settings.model_validate({"servers": {"t": {**ENTRY, "factor": "two"}}})
    with pytest.raises(ValueError, match=r"expected tags: 'tfserving', 'torchserve', 'v2', 'toy'"):
        Settings.model_validate({"servers": {"t": {**ENTRY, "kind": "other"}}})
    with pytest.raises(ValueError, match="opaque needs one TorchServe server"):
        Settings.model_validate({"servers": {"t": ENTRY}, "models": {"m": {"opaque": True}}})
