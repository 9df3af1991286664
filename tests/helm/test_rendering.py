"""The chart, rendered by the real helm: what it promises, of every switch; its manifests, valid for each Kubernetes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart import APIS, CHART, ENVIRONMENT, EXAMPLES, ROOT, VERSIONS, Rendering, helm, render
from tests.helm.promised import PAIRS, PROMISES


@pytest.mark.parametrize("name", PROMISES)
def test_every_rendering_keeps_its_promise(renderings: dict[str, Rendering], name: str) -> None:
    for case, rendering in renderings.items():
        try:
            PROMISES[name](rendering)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("name", PAIRS)
def test_renderings_keep_their_promise(name: str) -> None:
    def rendered(values: dict[str, Any], release: str = "duet") -> Rendering:
        apis = values.pop("_apis", APIS)
        return render(values=values, release=release, apis=apis)

    PAIRS[name](rendered)


@pytest.mark.parametrize("example", [None, *EXAMPLES])
def test_lint_finds_nothing(example: str | None) -> None:
    values = ["--values", str(EXAMPLES[example])] if example else []
    done = subprocess.run(
        [helm(), "lint", "--strict", str(CHART), *values], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


README = (CHART / "README.md").read_text()


def validated(tmp_path: Path, renderings: dict[str, Rendering], *versions: str) -> str:
    file = tmp_path / "objects.json"
    file.write_text(json.dumps({name: rendering.objects for name, rendering in renderings.items()}))
    script = ROOT / "tests" / "helm" / "validate.py"
    done = subprocess.run(
        [str(ENVIRONMENT / "bin" / "python"), str(script), str(file), *versions],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_examples_are_valid_for_every_kubernetes_version(tmp_path: Path, renderings: dict[str, Rendering]) -> None:
    chosen = {name: renderings[name] for name in ("defaults", *EXAMPLES)}
    assert " 0 faults" in validated(tmp_path, chosen, *VERSIONS)


def test_every_switch_is_valid_for_the_oldest_and_the_newest_kubernetes(
    tmp_path: Path, renderings: dict[str, Rendering]
) -> None:
    assert " 0 faults" in validated(tmp_path, renderings, VERSIONS[0], VERSIONS[-1])


def test_an_object_that_is_not_valid_is_found(tmp_path: Path, renderings: dict[str, Rendering]) -> None:
    """The validator itself is not silent: for a core object, for a custom one and for a kind that nobody knows."""
    production = json.loads(json.dumps(renderings["production"].objects))
    kinds = {one["kind"]: one for one in production}
    kinds["Deployment"]["spec"]["replica"] = 2
    kinds["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["portt"] = "metrics"
    kinds["Service"]["apiVersion"] = "v2"
    with pytest.raises(AssertionError) as caught:
        validated(tmp_path, {"broken": Rendering(production)}, VERSIONS[-1])
    for word in ("replica", "portt", "find schema for kind Service"):
        assert word in str(caught.value)


def test_optional_things_are_off_by_default(renderings: dict[str, Rendering]) -> None:
    kinds = {one["kind"] for one in renderings["defaults"].objects}
    always = {"ConfigMap", "Deployment", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Secret", "Service"}
    assert kinds == always | {"ServiceAccount"}


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("ingress.enabled=true", "Ingress"),
        ("gatewayAPI.httpRoute.enabled=true", "HTTPRoute"),
        ("gatewayAPI.grpcRoute.enabled=true", "GRPCRoute"),
        ("gateway.autoscaling.enabled=true", "HorizontalPodAutoscaler"),
        ("tfserving.autoscaling.enabled=true", "HorizontalPodAutoscaler"),
        ("gateway.keda.enabled=true", "ScaledObject"),
        ("monitoring.serviceMonitor.enabled=true", "ServiceMonitor"),
        ("monitoring.podMonitor.enabled=true", "PodMonitor"),
        ("monitoring.prometheusRule.enabled=true", "PrometheusRule"),
        ("loadtest.enabled=true", "Job"),
        ("parityCheck.enabled=true", "CronJob"),
        ("more objects", "ConfigMap"),
    ],
)
def test_a_switch_brings_its_object(renderings: dict[str, Rendering], case: str, kind: str) -> None:
    more = {(o["kind"], o["metadata"]["name"]) for o in renderings[case].objects}
    more -= {(o["kind"], o["metadata"]["name"]) for o in renderings["defaults"].objects}
    assert kind in {found for found, _ in more}


def test_the_documentation_is_made_from_the_comments() -> None:
    for script in ("docs.py", "dashboard.py"):
        done = subprocess.run(
            [sys.executable, str(ROOT / "helm" / script), "--check"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_a_pool_takes_what_it_leaves_out_from_its_section() -> None:
    pools = {"a": {"gpu": {"count": 2}, "image": {"tag": "mine"}}}
    rendering = render(values={"torchserve": {"replicaCount": 3, "pools": pools}})
    one = rendering.one("Deployment", "duet-torchserve-a")
    main = one["spec"]["template"]["spec"]["containers"][0]
    assert one["spec"]["replicas"] == 3
    assert main["image"] == "pytorch/torchserve:mine"
    assert main["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert len(rendering.component("Deployment", "torchserve")) == 1


@pytest.mark.parametrize(
    ("section", "gpus", "image"),
    [
        ("tfserving", 0, "tensorflow/serving:2.20.0"),
        ("tfserving", 1, "tensorflow/serving:2.20.0-gpu"),
        ("torchserve", 0, "pytorch/torchserve:0.12.0-cpu"),
        ("torchserve", 1, "pytorch/torchserve:0.12.0-gpu"),
    ],
)
def test_the_official_image_fits_the_hardware(section: str, gpus: int, image: str) -> None:
    [one] = render(values={section: {"gpu": {"count": gpus}}}).component("Deployment", section)
    assert one["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_every_alert_has_its_runbook_in_the_readme(renderings: dict[str, Rendering]) -> None:
    headings = {line[4:].strip().lower() for line in README.splitlines() if line.startswith("### ")}
    [rule] = renderings["monitoring.prometheusRule.enabled=true"].all("PrometheusRule")
    rules = [entry for group in rule["spec"]["groups"] for entry in group["rules"]]
    assert {entry["alert"] for entry in rules} >= {"DuetBackendDown", "DuetQueueFull", "DuetParityDrift"}
    for entry in rules:
        assert entry["annotations"]["runbook_url"].partition("#")[2] in headings, entry["alert"]


def test_the_readme_speaks_of_files_that_exist() -> None:
    named = set(re.findall(r"(?:helm/duet/)?examples/[\w-]+\.yaml|Dockerfile(?:\.\w+)?", README))
    assert len(named) >= 5
    for name in named:
        assert (CHART / name if name.startswith("examples") else ROOT / name).exists(), name


def notes(*sets: str) -> str:
    command = [helm(), "install", "duet", str(CHART), "--namespace", "serving", "--dry-run=client"]
    command += [part for value in sets for part in ("--set", value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((), "kubectl -n serving port-forward service/duet-gateway 8000"),
        ((), "curl -s http://localhost:8000/v2/models/convnet@tensorflow"),
        ((), "helm -n serving test duet --logs"),
        ((), "WARNING: gateway.tls.existingSecret is empty"),
        ((), "WARNING: gateway.apiKeys.existingSecret is empty"),
        (("ingress.enabled=true", "ingress.tlsSecret=t"), "curl -s https://duet.example.com/v2/models/"),
        (("gateway.service.type=LoadBalancer",), "loadBalancer.ingress"),
        (("networkPolicy.enabled=false",), "every pod of the cluster reaches TensorFlow Serving"),
        (("monitoring.podMonitor.enabled=true",), "LEFT OUT: monitors and alerts"),
        (("gateway.keda.enabled=true",), "LEFT OUT: the ScaledObject"),
    ],
)
def test_the_notes_say_how_to_make_the_first_call_and_what_is_missing(sets: tuple[str, ...], said: str) -> None:
    text = notes(*sets)
    assert said in text
    assert len(text.splitlines()) <= 25
