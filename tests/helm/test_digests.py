"""The init container that lets through what is listed, run as it is rendered."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serving.digests import listing
from tests.helm.chart import render


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Two models in both frameworks, of files with odd names too."""
    root = tmp_path / "artifacts"
    for model in ("mlp", "con-vnet"):
        folder = root / "tensorflow" / model / "1"
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_text(model)
        (folder / "variables" / "a b'c.index").write_text("weights")
        archive = root / "pytorch" / f"{model}-1.mar"
        archive.parent.mkdir(exist_ok=True)
        archive.write_text(f"{model}'s archive")
    return root


def check(component: str, store: Path, allowed: str) -> subprocess.CompletedProcess[str]:
    """Runs what a pod that serves `mlp` alone would run in its store."""
    fetched = {"source": "s3", "location": "s3://bucket/models", "allowDigests": allowed}
    values: dict[str, Any] = {
        "models": {"mlp": {}, "con-vnet": {}},
        "helmTest": {"models": []},
        component: {"modelStore": fetched, "pools": {"main": {"models": ["mlp"]}}},
    }
    [deployment] = render(values=values).component("Deployment", component)
    containers = deployment["spec"]["template"]["spec"]["initContainers"]
    assert [one["name"] for one in containers][:2] == ["download", "digests"]
    environment = {one["name"]: one["value"] for one in containers[1]["env"]} | {"STORE": str(store)}
    return subprocess.run(
        containers[1]["command"], env=os.environ | environment, capture_output=True, text=True, timeout=30, check=False
    )


STORES = [("tfserving", "tensorflow", "mlp/1", "con-vnet/1"), ("torchserve", "pytorch", "mlp-1.mar", "con-vnet-1.mar")]


@pytest.mark.parametrize(("component", "kind", "own", "other"), STORES)
def test_what_serving_digests_prints_is_let_through(
    artifacts: Path, component: str, kind: str, own: str, other: str
) -> None:
    done = check(component, artifacts / kind, "\n".join(["# ours", "", *listing(artifacts)]))
    assert (done.returncode, done.stderr) == (0, "")
    assert (artifacts / kind / own).exists()
    assert (artifacts / kind / other).exists()


@pytest.mark.parametrize(("component", "kind", "own", "other"), STORES)
def test_one_changed_byte_in_a_model_of_the_pod_keeps_it_from_starting(
    artifacts: Path, component: str, kind: str, own: str, other: str
) -> None:
    allowed = "\n".join(listing(artifacts))
    changed = artifacts / kind / own
    changed = changed / "variables" / "a b'c.index" if changed.is_dir() else changed
    changed.write_text("other")
    done = check(component, artifacts / kind, allowed)
    assert done.returncode == 1
    assert f"{own} is not in modelStore.allowDigests and was deleted; its digest is " in done.stderr
    assert not (artifacts / kind / own).exists()


@pytest.mark.parametrize(("component", "kind", "own", "other"), STORES)
def test_what_the_pod_does_not_serve_is_deleted_and_holds_up_nobody(
    artifacts: Path, component: str, kind: str, own: str, other: str
) -> None:
    allowed = "\n".join(line for line in listing(artifacts) if not line.endswith(other))
    done = check(component, artifacts / kind, allowed)
    assert done.returncode == 0
    assert (artifacts / kind / own).exists()
    assert not (artifacts / kind / other).exists()


def test_a_link_is_refused(artifacts: Path) -> None:
    allowed = "\n".join(listing(artifacts))
    (artifacts / "tensorflow" / "mlp" / "1" / "saved_model.pb").unlink()
    (artifacts / "tensorflow" / "mlp" / "1" / "saved_model.pb").symlink_to("/etc/hostname")
    done = check("tfserving", artifacts / "tensorflow", allowed)
    assert done.returncode == 1
    assert "links" in done.stderr
