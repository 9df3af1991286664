"""The documentation on the admin port needs nothing from elsewhere."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gateway.rest import admin
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import SIGNATURE, FakeTorchServe
from tests.gateway.conftest import RunningGateway, wait_for

SWAGGER = Path(admin.__file__).parent / "swagger"


def test_the_documentation_is_whole_without_the_internet(
    gateway_with: Callable[[dict[str, Any]], RunningGateway],
) -> None:
    """Scripts, styles and icon come from the port itself, and the document is sent to no validator."""
    pytorch = FakeTorchServe({})
    server = {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}
    client = gateway_with({"servers": {"pytorch": server}}).admin
    page = client.get("/docs").text
    wanted = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert len(wanted) == 3
    for path in wanted:
        assert path.startswith("/docs/"), path
        answer = client.get(path)
        assert answer.status_code == 200
        name = path.removeprefix("/docs/")
        packed = SWAGGER / f"{name}.gz"
        assert answer.content == (
            gzip.decompress(packed.read_bytes()) if packed.exists() else (SWAGGER / name).read_bytes()
        )
    assert '"validatorUrl": null' in page
    assert "://" not in page
    assert client.get("/openapi.json").json()["openapi"].startswith("3.")
    assert client.get("/docs/%2e%2e/admin.py").status_code == 400
    pytorch.close()


def test_what_is_not_ours_has_its_licences_beside_it() -> None:
    assert "Apache License" in (SWAGGER / "LICENSE").read_text()
    assert (SWAGGER / "NOTICE").read_text()
    assert (SWAGGER / "swagger-ui-bundle.js.LICENSE.txt").read_text()


def test_the_live_picture_says_whose_requests_are_joined_and_why(
    gateway_with: Callable[[dict[str, Any]], RunningGateway],
) -> None:
    """By variant, model, version and signature: by the artifact, the server, the operator; or what to set for it."""
    ours, strangers, tensorflow = FakeTorchServe({"m": ["1"]}), FakeTorchServe({"m": ["1"]}), FakeTFServing({"m": [7]})
    ours.signature = {**SIGNATURE, "rows": "independent"}
    strangers.described = {"batchSize": 8}
    gateway = gateway_with(
        {
            "servers": {
                "ours": {"kind": "torchserve", "endpoint": ours.url, "management": ours.url},
                "strangers": {"kind": "torchserve", "endpoint": strangers.url, "management": strangers.url},
                "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            },
            "models": {"m": {}, "told": {"variants": ["ours"], "batching": {"rows": {"ours": "dependent"}}}},
        }
    )
    ours.models["told"] = ["1"]
    for name in ("m@ours", "m@strangers", "m@tensorflow", "told@ours"):
        gateway.wait_until(f"/v2/models/{name}/ready", 200)
    servers = gateway.admin.get("/admin/backends").json()["servers"]
    found = {variant: servers[variant]["batching"] for variant in servers}

    def entry(rows: str, joined: bool, why: str) -> dict[str, Any]:
        return {"rows": rows, "joined": joined, "why": why, "samples": 0, "differences": 0}

    whose = "serving_default"
    assert found["ours"]["m"]["1"][whose] == entry("independent", True, "its artifact says so")
    assert found["ours"]["told"]["1"][whose] == entry(
        "dependent", False, "the setting models.told.batching.rows says so"
    )
    assert found["strangers"]["m"]["1"][whose] == entry(
        "independent", True, "TorchServe batches this model itself (batchSize 8)"
    )
    unknown = found["tensorflow"]["m"]["7"]
    assert sorted(unknown) == ["classify", "regress", whose]
    assert (unknown[whose]["rows"], unknown[whose]["joined"]) == ("unknown", False)
    assert "set models.m.batching.rows: independent" in unknown[whose]["why"]
    assert gateway.infer("m@tensorflow", [1.0]).status_code == 200
    assert gateway.infer("m@tensorflow", [1.0]).status_code == 200
    assert gateway.log.read_text().count("m@tensorflow version 7 is not batched: ") == 1
    for fake in (ours, strangers, tensorflow):
        fake.close()


def test_a_wrong_word_shows_in_log_metrics_and_picture(
    gateway_with: Callable[[dict[str, Any]], RunningGateway],
) -> None:
    """End to end: a server that answers a joined call otherwise than each request alone."""
    pytorch = FakeTorchServe({"m": ["1"]})
    pytorch.signature = {**SIGNATURE, "rows": "independent"}
    pytorch.delay_seconds = 0.02
    pytorch.answers_by_company = True
    gateway = gateway_with(
        {"servers": {"pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url}}}
    )
    gateway.wait_until("/v2/models/m/ready", 200)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: gateway.infer("m", [value]).status_code, map(float, range(1, 9))))
        wait_for(lambda: "no longer batched" in gateway.log.read_text(), "the sample to end")
        answers = list(pool.map(lambda value: gateway.infer("m", [value]).json(), map(float, range(1, 9))))
    assert [answer["outputs"][0]["data"] for answer in answers] == [[2.0 * value] for value in range(1, 9)]
    assert "models.m.batching.rows: dependent" in gateway.log.read_text()
    told = gateway.admin.get("/admin/backends").json()["servers"]["pytorch"]["batching"]["m"]["1"]["serving_default"]
    assert (told["joined"], told["samples"], told["differences"]) == (False, 1, 1)
    labels = '{model="m",variant="pytorch",version="1"} 1.0'
    metrics = gateway.admin.get("/metrics").text
    assert f"duet_batching_samples_total{labels}" in metrics
    assert f"duet_batching_differences_total{labels}" in metrics
    pytorch.close()
