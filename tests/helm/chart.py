"""Renders the chart with the real helm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "duet"
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml"))}
ENVIRONMENT = Path(os.environ.get("DUET_CHART_ENV", ROOT / ".venv-chart"))
#: The custom resources that the chart knows of.
APIS = ("monitoring.coreos.com/v1", "keda.sh/v1alpha1", "gateway.networking.k8s.io/v1")
VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))

Object = dict[str, Any]


class Refused(Exception):
    """Helm's own words on values that it does not take."""


@dataclass(frozen=True)
class Rendering:
    objects: list[Object]
    text: str = field(repr=False, default="")

    def all(self, *kinds: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        [found] = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found

    def component(self, kind: str, component: str) -> list[Object]:
        key = "app.kubernetes.io/component"
        return [one for one in self.all(kind) if one["metadata"]["labels"].get(key) == component]

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Each pod template, as a pod: the name of its owner, and metadata with spec."""
        for one in self.objects:
            name = f"{one['kind']}/{one['metadata']['name']}"
            match one["kind"]:
                case "Deployment" | "Job":
                    yield name, one["spec"]["template"]
                case "CronJob":
                    yield name, one["spec"]["jobTemplate"]["spec"]["template"]
                case "Pod":
                    yield name, one


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def helm() -> str:
    own = ENVIRONMENT / "bin" / "helm"
    found = str(own) if own.exists() else shutil.which("helm")
    assert found, "there is no helm: run `make chart`, which installs one"
    return found


def render(
    *files: Path,
    values: dict[str, Any] | None = None,
    release: str = "duet",
    chart: Path = CHART,
    apis: tuple[str, ...] = APIS,
    kubernetes: str = "1.37",
) -> Rendering:
    """The objects of `helm template`. Raises Refused."""
    command = [helm(), "template", release, str(chart), "--namespace", "serving", "--kube-version", kubernetes]
    command += [part for file in files for part in ("--values", str(file))]
    command += [part for api in apis for part in ("--api-versions", api)]
    document = json.dumps(values or {})  # which is YAML
    done = subprocess.run(
        [*command, "--values", "-"], input=document, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise Refused(done.stderr)
    objects = [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]
    return Rendering(objects, done.stdout)
