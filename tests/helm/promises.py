"""What the chart promises of every rendering: each function fails with a sentence where its promise is broken."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.helm.chart import Object, Rendering, containers

Promise = Callable[[Rendering], None]
PROMISES: dict[str, Promise] = {}

SELECTING = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "duet.dev/pool"}
SELECTING |= {"duet.dev/role"}
SERVERS = ("tfserving", "torchserve")
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SECRET = re.compile(r"(?i)(token|secret|password|pepper|api_?key|credential)")


def promise(check: Promise) -> Promise:
    PROMISES[check.__name__] = check
    return check


def component(one: Object) -> str:
    return str(one["metadata"]["labels"]["app.kubernetes.io/component"])


def fits(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def deployments(rendering: Rendering) -> list[Object]:
    return rendering.all("Deployment")


def port_names(pod: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in containers(pod) for port in one.get("ports", [])}


@promise
def selectors_never_hold_what_may_change(rendering: Rendering) -> None:
    for one in deployments(rendering):
        extra = one["spec"]["selector"]["matchLabels"].keys() - SELECTING
        assert not extra, f"{one['metadata']['name']}: its immutable selector holds {extra}"


@promise
def selectors_find_their_pods_and_no_others(rendering: Rendering) -> None:
    for one in deployments(rendering):
        selector = one["spec"]["selector"]["matchLabels"]
        assert fits(selector, one["spec"]["template"]["metadata"]["labels"]), one["metadata"]["name"]
        found = [name for name, pod in rendering.pods() if fits(selector, pod["metadata"]["labels"])]
        assert len(found) == 1, f"{one['metadata']['name']} selects {found}"
    for kind in ("Service", "PodDisruptionBudget"):
        for one in rendering.all(kind):
            selector = one["spec"]["selector"].get("matchLabels", one["spec"]["selector"])
            assert any(fits(selector, pod["metadata"]["labels"]) for _, pod in rendering.pods()), one["metadata"]


@promise
def every_named_port_exists_where_it_is_used(rendering: Rendering) -> None:
    pods = list(rendering.pods())
    for name, pod in pods:
        for one in containers(pod):
            own = {port["name"] for port in one.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                for handler in one.get(probe, {}).values():
                    port = handler.get("port") if isinstance(handler, dict) else None
                    known = own if isinstance(port, str) else set(port_names(pod).values())
                    assert port is None or port in known, f"{name}: {probe} asks the port {port}"
    for service in rendering.all("Service"):
        selected = [pod for _, pod in pods if fits(service["spec"]["selector"], pod["metadata"]["labels"])]
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in port_names(pod) for pod in selected), service["metadata"]["name"]
    for policy in rendering.all("NetworkPolicy"):
        selector = policy["spec"]["podSelector"].get("matchLabels", {})
        for _, pod in pods:
            if fits(selector, pod["metadata"]["labels"]) and "loadtest" not in policy["metadata"]["name"]:
                for rule in policy["spec"].get("ingress", []):
                    for port in rule["ports"]:
                        assert port["port"] in port_names(pod), f"{policy['metadata']['name']}: {port}"


@promise
def monitors_scrape_ports_that_exist(rendering: Rendering) -> None:
    for one in rendering.all("ServiceMonitor"):
        selector = one["spec"]["selector"]["matchLabels"]
        services = [s for s in rendering.all("Service") if fits(selector, s["metadata"]["labels"])]
        ports = {port["name"] for service in services for port in service["spec"]["ports"]}
        assert services, f"{one['metadata']['name']} finds no Service"
        assert {endpoint["port"] for endpoint in one["spec"]["endpoints"]} <= ports, one["metadata"]["name"]
    for one in rendering.all("PodMonitor"):
        selector = one["spec"]["selector"]["matchLabels"]
        pods = [pod for _, pod in rendering.pods() if fits(selector, pod["metadata"]["labels"])]
        assert pods, f"{one['metadata']['name']} finds no pod"
        for endpoint in one["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in port_names(pod) for pod in pods), one["metadata"]["name"]


@promise
def what_operators_need_is_in_no_service_of_clients(rendering: Rendering) -> None:
    """Administration of the gateway; management, metrics and gRPC of TorchServe; REST of TensorFlow Serving."""
    for service in rendering.all("Service"):
        ports = {port["name"] for port in service["spec"]["ports"]}
        name = service["metadata"]["name"]
        if component(service) == "gateway" and "metrics" not in name:
            assert ports == {"http", "grpc"}, f"{name} opens {ports}"
        elif component(service) in SERVERS:
            assert ports <= {"grpc", "http"}, f"{name} opens {ports}"
            assert service["spec"].get("type", "ClusterIP") == "ClusterIP", name


@promise
def servers_are_found_one_by_one(rendering: Rendering) -> None:
    for service in rendering.all("Service"):
        if component(service) in SERVERS:
            assert service["spec"].get("clusterIP") == "None", f"{service['metadata']['name']} is not headless"
            assert "duet.dev/pool" not in service["spec"]["selector"], "the gateway must see all pools"


@promise
def images_have_a_version(rendering: Rendering) -> None:
    for name, pod in rendering.pods():
        for one in containers(pod):
            image = one["image"]
            pinned = "@sha256:" in image or ":" in image.rpartition("/")[2]
            assert pinned, f"{name}: {image} has no version"
            assert not image.endswith(":latest"), f"{name}: {image}"
            assert image == image.lower() or "@" in image or image.partition(":")[0].islower(), image


@promise
def every_container_states_requests_and_limits(rendering: Rendering) -> None:
    for name, pod in rendering.pods():
        for one in containers(pod):
            for kind in ("requests", "limits"):
                given = one.get("resources", {}).get(kind, {})
                assert {"cpu", "memory"} <= given.keys(), f"{name}: {one['name']} has no {kind}"
            requests, limits = one["resources"]["requests"], one["resources"]["limits"]
            for resource in requests:
                assert quantity(requests[resource]) <= quantity(limits[resource]), f"{name}: {resource}"


@promise
def gpus_are_for_servers_only(rendering: Rendering) -> None:
    for name, pod in rendering.pods():
        for one in containers(pod):
            extended = {key for key in one["resources"]["limits"] if "/" in key}
            if extended:
                assert one["name"] in SERVERS, f"{name}: {one['name']} takes {extended}"
                for key in extended:
                    same = one["resources"]["requests"].get(key) == one["resources"]["limits"][key]
                    assert same, f"{name}: request and limit of {key} differ"
                    assert isinstance(one["resources"]["limits"][key], int), f"{name}: {key} must be whole"


@promise
def a_rollout_can_end_where_all_gpus_are_taken(rendering: Rendering) -> None:
    for one in deployments(rendering):
        gpus = any("/" in key for c in containers(one["spec"]["template"]) for key in c["resources"]["limits"])
        rolling = one["spec"]["strategy"]["rollingUpdate"]
        expected = (0, 1) if gpus else (1, 0)
        found = rolling["maxSurge"], rolling["maxUnavailable"]
        assert found == expected, f"{one['metadata']['name']}: maxSurge, maxUnavailable are {found}"


@promise
def pods_are_restricted(rendering: Rendering) -> None:
    """The Pod Security Standard `restricted`, and more: numeric ids, a read-only root."""
    for name, pod in rendering.pods():
        spec = pod["spec"]
        context = spec["securityContext"]
        assert context.get("runAsNonRoot") is True, name
        assert isinstance(context.get("runAsUser"), int), name
        assert context["runAsUser"] >= 10_000, name
        assert context.get("seccompProfile") == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), name
        for one in containers(pod):
            own = one.get("securityContext", {})
            assert own.get("allowPrivilegeEscalation") is False, f"{name}: {one['name']}"
            assert own.get("readOnlyRootFilesystem") is True, f"{name}: {one['name']}"
            assert own.get("capabilities") == {"drop": ["ALL"]}, f"{name}: {one['name']}"
            assert not own.get("privileged"), f"{name}: {one['name']}"


@promise
def no_pod_has_a_token_of_the_cluster(rendering: Rendering) -> None:
    for name, pod in rendering.pods():
        assert pod["spec"].get("automountServiceAccountToken") is False, name
    for account in rendering.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False, account["metadata"]["name"]


@promise
def replicas_are_left_to_the_scaler(rendering: Rendering) -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in rendering.all("HorizontalPodAutoscaler", "ScaledObject")}
    names = {one["metadata"]["name"] for one in deployments(rendering)}
    assert scaled <= names, f"no Deployment for {scaled - names}"
    for one in deployments(rendering):
        name = one["metadata"]["name"]
        assert ("replicas" in one["spec"]) != (name in scaled), f"{name}: replicas beside a scaler, or neither"


@promise
def autoscalers_can_work(rendering: Rendering) -> None:
    for one in rendering.all("HorizontalPodAutoscaler"):
        spec = one["spec"]
        assert 1 <= spec["minReplicas"] <= spec["maxReplicas"]
        assert spec["metrics"], one["metadata"]["name"]
        for metric in spec["metrics"]:
            target = (metric.get("resource") or metric.get("pods") or metric.get("external"))["target"]
            assert ("averageUtilization" in target) == (target["type"] == "Utilization"), target
    for one in rendering.all("PodDisruptionBudget"):
        assert len({"minAvailable", "maxUnavailable"} & one["spec"].keys()) == 1
        assert one["spec"].get("maxUnavailable") not in (0, "0%"), "nodes could never be drained"


@promise
def secrets_are_in_secrets_only(rendering: Rendering) -> None:
    tokens = [value for one in rendering.all("Secret") for value in one.get("data", {}).values()]
    rest = [one for one in rendering.objects if one["kind"] != "Secret"]
    dump = json.dumps(rest)
    for token in tokens:
        decoded = json.loads(base64.b64decode(token))
        for key in (entry["key"] for entry in decoded.values()):
            assert len(key) >= 40, "a token of less than 200 bits"
            assert key not in dump, "a token stands outside of its Secret"
    for name, pod in rendering.pods():
        for one in containers(pod):
            for variable in one.get("env", []):
                literal = _SECRET.search(variable["name"]) and "value" in variable
                assert not literal or variable["name"].endswith("_FILE"), f"{name}: {variable['name']}"
            for argument in (*one.get("command", []), *one.get("args", [])):
                assert not re.search(r"--(api-?key|token|password)=", argument), f"{name}: {argument}"


@promise
def volumes_and_their_sources_exist(rendering: Rendering) -> None:
    maps = {one["metadata"]["name"]: set(one["data"]) for one in rendering.all("ConfigMap")}
    for name, pod in rendering.pods():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        assert len(volumes) == len(pod["spec"].get("volumes", [])), f"{name}: a volume twice"
        used = set()
        for one in containers(pod):
            paths = Counter(mount["mountPath"] for mount in one.get("volumeMounts", []))
            assert not [path for path, count in paths.items() if count > 1], f"{name}: {paths}"
            for mount in one.get("volumeMounts", []):
                used.add(mount["name"])
                assert mount["name"] in volumes, f"{name}: no volume {mount['name']}"
                source = volumes[mount["name"]].get("configMap")
                if source and "subPath" in mount:
                    assert mount["subPath"] in maps.get(source["name"], ()), f"{name}: no key {mount['subPath']}"
        assert used == set(volumes), f"{name}: unused volumes {set(volumes) - used}"
        for volume in volumes.values():
            assert "configMap" not in volume or volume["configMap"]["name"] in maps, f"{name}: {volume}"


@promise
def names_fit_what_kubernetes_takes(rendering: Rendering) -> None:
    seen = Counter((one["kind"], one["metadata"]["name"]) for one in rendering.objects)
    assert not [key for key, count in seen.items() if count > 1], seen
    for one in rendering.objects:
        name = one["metadata"]["name"]
        longest = 52 if one["kind"] == "CronJob" else 63
        assert _NAME.fullmatch(name), f"{one['kind']} {name}"
        assert len(name) <= longest, f"{one['kind']} {name}"
        assert "namespace" not in one["metadata"], f"{name}: the release has the namespace"
        for key, value in labels_in(one):
            assert _LABEL.fullmatch(value), f"{name}: label {key}={value}"
    for name, pod in rendering.pods():
        ports = [port for one in containers(pod) for port in one.get("ports", [])]
        assert all(re.fullmatch(r"(?=.*[a-z])[a-z0-9-]{1,15}", port["name"]) for port in ports), name
        assert len({port["containerPort"] for port in ports}) == len(ports), f"{name}: a port twice"
        for one in containers(pod):
            variables = Counter(variable["name"] for variable in one.get("env", []))
            assert not [key for key, count in variables.items() if count > 1], f"{name}: {variables}"


@promise
def jobs_are_never_changed(rendering: Rendering) -> None:
    """A Job's template is immutable: its name must change with it."""
    for one in rendering.all("Job"):
        assert re.search(r"-[0-9a-f]{8}$", one["metadata"]["name"]), one["metadata"]["name"]


@promise
def no_argument_has_vanished(rendering: Rendering) -> None:
    def walk(value: Any, path: str) -> None:
        assert value is not None, f"{path} is null"
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            walk(inner, f"{path}.{key}")

    for one in rendering.objects:
        walk(one, one["metadata"]["name"])


def labels_in(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("labels", "matchLabels"):
                yield from inner.items()
            else:
                yield from labels_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from labels_in(inner)


_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(value: str | int) -> float:
    """A quantity as a number; fails where Kubernetes would not take it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(value))
    assert found, f"{value!r} is no quantity"
    return float(found[1]) * _UNITS.get(found[2] or "", 1)
