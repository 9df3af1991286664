"""Promises that take more than one rendering to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from models.catalog import CATALOG
from tests.helm.chart import Refused, Rendering
from tests.helm.promises import fits
from tests.helm.server_promises import gateway_config


class Render(Protocol):
    def __call__(self, values: dict[str, Any], release: str = "duet") -> Rendering: ...


PAIRS: dict[str, Callable[[Render], None]] = {}


def pair(check: Callable[[Render], None]) -> Callable[[Render], None]:
    PAIRS[check.__name__] = check
    return check


def checksum(rendering: Rendering, component: str) -> str:
    [one] = rendering.component("Deployment", component)
    return str(one["spec"]["template"]["metadata"]["annotations"]["checksum/config"])


@pair
def a_changed_config_rolls_the_pods(render: Render) -> None:
    before, again = render({}), render({})
    changed = render({"gateway": {"config": {"default_deadline_seconds": 7}}})
    fewer = render({"models": {"mlp": {}}})
    for component in ("gateway", "tfserving", "torchserve"):
        assert checksum(before, component) == checksum(again, component), f"{component} rolls without a change"
        assert checksum(before, component) != checksum(fewer, component), f"{component} does not roll"
    assert checksum(before, "gateway") != checksum(changed, "gateway"), "the gateway does not roll"
    assert checksum(before, "tfserving") == checksum(changed, "tfserving"), "TensorFlow Serving rolls for nothing"


@pair
def two_releases_in_one_namespace_do_not_meet(render: Render) -> None:
    switched_on = {"loadtest": {"enabled": True}, "parityCheck": {"enabled": True}}
    one, other = render(switched_on, release="blue"), render(switched_on, release="green")
    names = [{(o["kind"], o["metadata"]["name"]) for o in rendering.objects} for rendering in (one, other)]
    assert not names[0] & names[1], f"both have {names[0] & names[1]}"
    for rendering, pods in ((one, other), (other, one)):
        for owner in rendering.all("Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"):
            spec = owner["spec"]
            selector = spec.get("podSelector") or spec["selector"]
            selector = selector.get("matchLabels", selector)
            met = [name for name, pod in pods.pods() if fits(selector, pod["metadata"]["labels"])]
            assert not met, f"{owner['kind']} {owner['metadata']['name']} selects {met} of the other release"


@pair
def a_long_release_name_still_fits(render: Render) -> None:
    pools = {"pools": {"a-pool-of-15-ch": {}}}
    long = render({"tfserving": pools, "torchserve": pools, "loadtest": {"enabled": True}}, release="r" * 53)
    for one in long.objects:
        assert len(one["metadata"]["name"]) <= 63, one["metadata"]["name"]


@pair
def labels_of_the_user_never_reach_a_selector(render: Render) -> None:
    values: dict[str, Any] = {"commonLabels": {"team": "x"}}
    for section in ("gateway", "tfserving", "torchserve"):
        values[section] = {"podLabels": {"tier": "y", "app.kubernetes.io/component": "stolen"}}
    plain, labelled = render({}), render(values)
    for one in plain.all("Deployment", "Service"):
        other = labelled.one(one["kind"], one["metadata"]["name"])
        assert one["spec"]["selector"] == other["spec"]["selector"], one["metadata"]["name"]
        assert other["metadata"]["labels"]["team"] == "x"


@pair
def custom_resources_need_their_api(render: Render) -> None:
    """A custom resource of an unknown kind would fail the whole install."""
    on = {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    routes = {name: {"enabled": True, "parentRefs": [{"name": "public"}]} for name in ("httpRoute", "grpcRoute")}
    values = {"monitoring": on, "gateway": {"keda": {"enabled": True}}, "gatewayAPI": routes}
    kinds = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute", "GRPCRoute"}
    assert kinds <= {one["kind"] for one in render(values).objects}
    bare = render({**values, "_apis": ()})
    assert not kinds & {one["kind"] for one in bare.objects}


@pair
def a_drain_that_is_longer_than_the_grace_is_refused(render: Render) -> None:
    for values in (
        {"gateway": {"config": {"drain_seconds": 90}}},
        {"tfserving": {"drainSeconds": 100}},
        {"torchserve": {"drainSeconds": 100}},
    ):
        assert "terminationGracePeriodSeconds must be above" in refusal(render, values), f"{values} was taken"


@pair
def the_tag_latest_is_refused(render: Render) -> None:
    for section in ("gateway", "tfserving", "torchserve", "loadtest"):
        words = refusal(render, {section: {"image": {"tag": "latest"}}})
        assert "latest is refused" in words, f"{section}.image.tag=latest was taken"


def refusal(render: Render, values: dict[str, Any]) -> str:
    try:
        render(values)
    except Refused as error:
        return str(error)
    return ""


@pair
def the_gateway_is_told_of_rows_what_the_values_say(render: Render) -> None:
    """Never more: a model of the user's own is asked alone until its values say that its rows are independent."""

    def told(rows: Any, **values: Any) -> Any:
        model = {"rows": rows} if rows is not None else {}
        return gateway_config(render({"models": {"mine": model}, **values}))["models"]["mine"].get("batching")

    both = {"tensorflow": "independent", "pytorch": "independent"}
    for name, model in gateway_config(render({}))["models"].items():
        assert model["batching"]["rows"] == dict.fromkeys(both, CATALOG[name].rows), name
    assert told("independent") == {"rows": both}
    assert told({"pytorch": "dependent"}) == {"rows": {"pytorch": "dependent"}}
    assert told({"tensorflow": "independent", "pytorch": "unknown"}) == {"rows": {"tensorflow": "independent"}}
    for nothing in (None, "unknown", {"tensorflow": "unknown"}):
        assert told(nothing) is None, nothing
    alone = {"torchserve": {"enabled": False}}
    assert told(both, **alone) == {"rows": {"tensorflow": "independent"}}, "the gateway has no server pytorch"
    assert told({"pytorch": "independent"}, **alone) is None
    own = {"gateway": {"config": {"models": {"mine": {"batching": {"rows": {"pytorch": "dependent"}}}}}}}
    assert told("independent", **own) == {"rows": {**both, "pytorch": "dependent"}}, "gateway.config stands over it"
