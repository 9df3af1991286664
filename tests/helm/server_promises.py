"""What the chart promises of the gateway and its two servers."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.helm.chart import Rendering
from tests.helm.promises import component, deployments, promise


@promise
def pods_outlive_their_drain(rendering: Rendering) -> None:
    for one in deployments(rendering):
        pod = one["spec"]["template"]["spec"]
        grace = pod["terminationGracePeriodSeconds"]
        main = pod["containers"][0]
        slept = main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if component(one) == "gateway":
            config = gateway_config(rendering)
            slept += config["linger_seconds"] + config["drain_seconds"]
            assert main["lifecycle"]["preStop"], "endpoints take a moment to learn that a pod is going"
        elif component(one) == "tfserving":
            slept += int(next(e["value"] for e in main["env"] if e["name"] == "DRAIN_SECONDS"))
        assert grace > slept > 0, f"{one['metadata']['name']}: {grace} s for {slept} s of draining"


@promise
def tensorflow_serving_is_drained_and_then_ended(rendering: Rendering) -> None:
    """It does not heed SIGTERM itself."""
    for one in rendering.component("Deployment", "tfserving"):
        shell, flag, script = one["spec"]["template"]["spec"]["containers"][0]["command"][:3]
        assert (shell, flag) == ("/bin/sh", "-c")
        assert re.search(r"trap '.*sleep \"\$DRAIN_SECONDS\"; kill -KILL \"\$server\".*' TERM", script), script
        assert "--enable_profiler=false" in one["spec"]["template"]["spec"]["containers"][0]["args"]


@promise
def torchserve_listens_on_loopback_with_tokens(rendering: Rendering) -> None:
    for one in rendering.component("ConfigMap", "torchserve"):
        lines = properties(one["data"]["config.properties"])
        for key in ("inference_address", "management_address", "metrics_address"):
            assert lines[key].startswith("http://127.0.0.1:"), f"{key}={lines[key]}"
        assert lines["grpc_inference_address"] == lines["grpc_management_address"] == "127.0.0.1"
        assert lines["disable_token_authorization"] == "false"
        assert lines["enable_model_api"] == "false"
        assert lines["allowed_urls"] == "file://.*"
    for one in rendering.component("Deployment", "torchserve"):
        main = one["spec"]["template"]["spec"]["containers"][0]
        assert "ports" not in main, "only the door has ports"


@promise
def torchserve_workers_follow_the_gpus(rendering: Rendering) -> None:
    for one in rendering.component("Deployment", "torchserve"):
        name = one["metadata"]["name"]
        limits = one["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        gpus = sum(value for key, value in limits.items() if "/" in key)
        lines = properties(rendering.one("ConfigMap", name)["data"]["config.properties"])
        workers = int(lines["default_workers_per_model"])
        assert int(lines["number_of_gpu"]) == gpus, name
        assert workers >= 1, name
        assert not gpus or workers % gpus == 0, f"{name}: {workers} workers on {gpus} GPUs"
        for versions in json.loads(lines["models"]).values():
            assert {v["minWorkers"] for v in versions.values()} == {workers}, name
            assert [v["defaultVersion"] for v in versions.values()].count(True) == 1, name


@promise
def the_gateway_and_its_servers_have_the_same_models(rendering: Rendering) -> None:
    models = gateway_config(rendering)["models"]
    for name, model in models.items():
        assert set(model["variants"]) <= set(gateway_config(rendering)["servers"]), name
    loaded: dict[str, set[str]] = {"tensorflow": set(), "pytorch": set()}
    for one in rendering.component("ConfigMap", "tfserving"):
        loaded["tensorflow"] |= set(re.findall(r'name: "([^"]+)"', one["data"]["models.config"]))
    for one in rendering.component("ConfigMap", "torchserve"):
        loaded["pytorch"] |= set(json.loads(properties(one["data"]["config.properties"])["models"]))
    for variant, component_name in (("tensorflow", "tfserving"), ("pytorch", "torchserve")):
        if rendering.component("Deployment", component_name):
            promised = {name for name, model in models.items() if variant in model["variants"]}
            assert loaded[variant] == promised, f"{variant}: {loaded[variant] ^ promised}"


@promise
def the_gateway_knows_its_servers_by_their_services(rendering: Rendering) -> None:
    services = {one["metadata"]["name"]: one for one in rendering.all("Service")}
    for server in gateway_config(rendering)["servers"].values():
        for address in (server["endpoint"], server.get("management", server["endpoint"])):
            host, _, port = address.removeprefix("http://").partition(":")
            if not re.fullmatch(r"[\d.]+", host) and "." not in host:
                assert host in services, f"no Service {host}"
                assert int(port) in {entry["port"] for entry in services[host]["spec"]["ports"]}, address


def gateway_config(rendering: Rendering) -> dict[str, Any]:
    [one] = [m for m in rendering.all("ConfigMap") if "duet.yaml" in m["data"]]
    return dict(yaml.load(one["data"]["duet.yaml"], yaml.CSafeLoader))


def properties(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line)
