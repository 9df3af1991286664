"""Which connections the network policies let through, worked out as Kubernetes does, against those that are needed."""

from __future__ import annotations

from typing import Any

from tests.helm.chart import Object, Rendering
from tests.helm.promises import component, fits, port_names, promise

#: From whom to whom, and the ports by name. `clients`, `monitoring`, `dns` and `downloads` are peers outside.
INSIDE = {
    ("gateway", "tfserving"): {"grpc"},
    ("gateway", "torchserve"): {"http"},
    ("test", "gateway"): {"http"},
    ("loadtest", "gateway"): {"http", "grpc"},
    ("loadtest", "loadtest"): {"master"},
}


def policies_of(rendering: Rendering, pod: Object) -> list[Object]:
    labels = pod["metadata"]["labels"]
    return [p for p in rendering.all("NetworkPolicy") if fits(p["spec"]["podSelector"].get("matchLabels", {}), labels)]


def rules(rendering: Rendering, pod: Object, direction: str) -> list[dict[str, Any]]:
    return [rule for policy in policies_of(rendering, pod) for rule in policy["spec"].get(direction, [])]


def allowed(rules_: list[dict[str, Any]], key: str, other: Object, numbers: dict[str, int]) -> set[str]:
    """Names of the ports that the rules open towards, or from, the other pod; ``numbers`` are the listening pod's."""
    names = {number: name for name, number in numbers.items()}
    found: set[str] = set()
    for rule in rules_:
        own = [peer["podSelector"] for peer in rule[key] if "podSelector" in peer and "namespaceSelector" not in peer]
        # An empty selector is a client of the namespace, not one of our own pods: those are named.
        if any(s.get("matchLabels") and fits(s["matchLabels"], other["metadata"]["labels"]) for s in own):
            ports = (port["port"] for port in rule["ports"])
            found |= {port if isinstance(port, str) else names.get(port, str(port)) for port in ports}
    return found & numbers.keys()


@promise
def everything_is_denied_that_is_not_needed(rendering: Rendering) -> None:
    """Each pair of pods may talk exactly where the system needs it, by the rules of both sides."""
    if not rendering.all("NetworkPolicy"):
        return
    # Of the load test the master is taken, which has a port.
    pods = {component(pod): pod for _, pod in sorted(rendering.pods(), key=lambda found: len(port_names(found[1])))}
    for pod in pods.values():
        types = {kind for policy in policies_of(rendering, pod) for kind in policy["spec"]["policyTypes"]}
        assert types == {"Ingress", "Egress"}, f"{pod['metadata']['labels']} is not denied by default"
        bare = [p["spec"] for p in policies_of(rendering, pod) if not {"ingress", "egress"} & p["spec"].keys()]
        assert any(len(spec["policyTypes"]) == 2 for spec in bare), "no policy denies all, whatever the others are"
    for one, source in pods.items():
        for other, target in pods.items():
            numbers = port_names(target)
            out = allowed(rules(rendering, source, "egress"), "to", target, numbers)
            into = allowed(rules(rendering, target, "ingress"), "from", source, numbers)
            needed = INSIDE.get((one, other), set())
            assert out & into == needed, f"{one} -> {other}: {out & into}, needed {needed}"
            assert out == needed, f"{one} may send to {other} on {out}"


@promise
def servers_are_reached_by_the_gateway_and_by_monitoring_only(rendering: Rendering) -> None:
    for _, pod in rendering.pods():
        if component(pod) not in ("tfserving", "torchserve") or not rendering.all("NetworkPolicy"):
            continue
        for rule in rules(rendering, pod, "ingress"):
            ports = {port["port"] for port in rule["ports"]}
            peers = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule["from"]]
            gateway = all(peer.get("app.kubernetes.io/component") == "gateway" for peer in peers)
            assert gateway or ports == {"metrics"}, f"{component(pod)} is open to {rule['from']} on {ports}"
        for rule in rules(rendering, pod, "egress"):
            ports = {port["port"] for port in rule["ports"]}
            assert ports in ({53}, {443}), f"{component(pod)} may call out on {ports}"
        if not any(c["name"] == "download" for c in pod["spec"].get("initContainers", [])):
            downloads = [c for _, p in rendering.pods() for c in p["spec"].get("initContainers", [])]
            assert downloads or not rules(rendering, pod, "egress"), f"{component(pod)} needs no egress"


@promise
def no_peer_is_empty(rendering: Rendering) -> None:
    """An empty list of peers, or an empty peer, means everybody."""
    for policy in rendering.all("NetworkPolicy"):
        assert set(policy["spec"]["policyTypes"]) <= {"Ingress", "Egress"}
        for direction, key in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                assert rule.get(key), f"{policy['metadata']['name']}: {direction} for everybody"
                assert all(rule[key]), f"{policy['metadata']['name']}: an empty peer"
                assert rule.get("ports"), f"{policy['metadata']['name']}: {direction} on every port"
