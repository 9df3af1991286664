"""Models, servers and endpoints that come and go while the real gateway runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway

Start = Callable[[dict[str, Any]], RunningGateway]

CONFIG = 'model_config_list {{ config {{ name: "{name}" base_path: "/m" model_platform: "tensorflow" }} }}\n'


def test_what_torchserve_lists_is_served_without_being_configured(gateway_with: Start) -> None:
    pytorch = FakeTorchServe({"early": ["1"]})
    server = {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}
    gateway = gateway_with({"servers": {"pytorch": server}})
    gateway.wait_until("/v2/models/early/ready", 200)
    assert gateway.infer("late", [1]).status_code == 404
    pytorch.models["late"] = ["1"]
    gateway.wait_until("/v2/models/late/ready", 200)
    assert gateway.infer("late", [1]).json()["outputs"][0]["data"] == [2.0]
    del pytorch.models["late"]
    gateway.wait_until("/v2/models/late", 404)
    assert gateway.infer("early", [1]).status_code == 200
    pytorch.close()


def test_a_model_stays_known_while_its_server_is_down(gateway_with: Start) -> None:
    """503, not 404: it is expected back."""
    pytorch = FakeTorchServe({"m": ["1"]})
    server = {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}
    gateway = gateway_with({"servers": {"pytorch": server}})
    gateway.wait_until("/v2/models/m/ready", 200)
    pytorch.close()
    gateway.wait_until("/v2/models/m/ready", 503)
    assert gateway.infer("m", [1]).status_code == 503


def test_tensorflow_models_come_and_go_with_the_servers_configuration_file(gateway_with: Start, tmp_path: Path) -> None:
    tensorflow = FakeTFServing({"first": [1], "second": [1]})
    path = tmp_path / "models.config"
    path.write_text(CONFIG.format(name="first"))
    server = {"kind": "tfserving", "endpoint": tensorflow.endpoint, "model_config_file": str(path)}
    gateway = gateway_with({"servers": {"tensorflow": server}})
    gateway.wait_until("/v2/models/first/ready", 200)
    assert gateway.client.get("/v2/models/second").status_code == 404
    path.write_text(CONFIG.format(name="second"))
    gateway.wait_until("/v2/models/second/ready", 200)
    gateway.wait_until("/v2/models/first", 404)
    path.write_text("model_config_list { config {")  # half-written: nothing is taken away for it
    assert gateway.infer("second", [3]).json()["outputs"][0]["data"] == [6.0]
    tensorflow.close()


def test_a_new_version_serves_once_it_is_ready_and_the_old_goes_on(gateway_with: Start) -> None:
    tensorflow = FakeTFServing({"m": [1]})
    gateway = gateway_with(
        {"servers": {"tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint}}, "models": {"m": {}}}
    )
    gateway.wait_until("/v2/models/m/ready", 200)
    assert gateway.infer("m", [1]).headers["x-duet-version"] == "1"
    tensorflow.models["m"] = [1, 2]
    gateway.wait_until("/v2/models/m/versions/2/ready", 200)
    assert gateway.infer("m", [1]).headers["x-duet-version"] == "2"
    assert gateway.infer("m/versions/1", [1]).headers["x-duet-version"] == "1"
    tensorflow.close()


def test_nothing_is_discovered_where_the_setting_says_so(gateway_with: Start) -> None:
    pytorch = FakeTorchServe({"m": ["1"], "hidden": ["1"]})
    server = {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}
    gateway = gateway_with({"servers": {"pytorch": server}, "models": {"m": {}}, "discover": False})
    gateway.wait_until("/v2/models/m/ready", 200)
    assert gateway.client.get("/v2/models/hidden").status_code == 404
    pytorch.close()
