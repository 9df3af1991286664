"""What the Dockerfile leaves of the gateway's packages: how large it is, and that the gateway runs on nothing else."""

from __future__ import annotations

import fnmatch
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helm.sbom import closure
from tests import fronts
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe
from tests.gateway.conftest import RunningGateway, start_gateway
from tests.helm.chart import ROOT

LARGEST_BYTES = 250_000_000
#: Room for what packages grow by from one release to the next.
ROOM_BYTES = 10_000_000
#: python:3.11-slim-bookworm, unpacked, with a margin: Debian's slim base and Python itself.
BASE_BYTES = 130_000_000

#: Neither the packages of the environment that runs this test nor the folder that it runs in.
ALONE = (sys.executable, "-S", "-P")
IMPORT_ALL = (
    "import gateway, importlib, pkgutil\n"
    "names = [found.name for found in pkgutil.walk_packages(gateway.__path__, 'gateway.')]\n"
    "[importlib.import_module(name) for name in names if not name.endswith(('__main__', '.generate'))]\n"
    "print(len(names), gateway.__file__)"
)


def cuts() -> tuple[list[str], str]:
    """The Dockerfile's own commands: those that delete, and the one that strips."""
    text = re.sub(r"\\\n(\s*#.*\n)*", " ", (ROOT / "Dockerfile").read_text())
    found = [part.strip() for part in text.replace("\n", "&&").split("&&") if part.strip().startswith("find ")]
    return [part for part in found if "strip" not in part], next(part for part in found if "strip" in part)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packages as it is in the image."""
    root = tmp_path_factory.mktemp("opt") / "duet"
    site = root / "site-packages"
    for package in closure("duet-serving").values():
        for file in package.files or ():
            source, target = Path(str(file.locate())), site / file
            if source.exists() and target.resolve().is_relative_to(site):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    shutil.copytree(ROOT / "gateway", site / "gateway")
    deleting, stripping = cuts()
    assert len(deleting) == 2
    for command in deleting + ([stripping] if shutil.which("strip") else []):
        subprocess.run(["/bin/sh", "-ec", command.replace("/opt/duet", str(root))], check=True, timeout=60)
    return site


def size_bytes(file: Path) -> int:
    patterns = re.findall(r"-(?:name|path) '\*?([^']+)'", cuts()[1])
    if shutil.which("strip") or not any(fnmatch.fnmatch(str(file), f"*{pattern}") for pattern in patterns):
        return file.stat().st_size
    return loaded_bytes(file)


def loaded_bytes(library: Path) -> int:
    """The size of an ELF file of 64 bits without its symbols: where its last loaded segment ends."""
    content = library.read_bytes()
    assert content[:5] == b"\x7fELF\x02", library
    [start] = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    headers = [struct.unpack_from("<IIQQQQ", content, start + place * size) for place in range(count)]
    return max(offset + length for kind, _, offset, _, _, length in headers if kind == 1)


def test_the_gateways_image_is_below_250_mb(packages: Path) -> None:
    """Base, packages as they are installed here without what the Dockerfile deletes, and the gateway itself."""
    size = sum(size_bytes(file) for file in packages.rglob("*") if file.is_file())
    assert size > 50_000_000, "the packages were not found"
    assert BASE_BYTES + size < LARGEST_BYTES - ROOM_BYTES, f"packages {size / 1e6:.0f} MB"


@pytest.fixture
def running(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningGateway]:
    tensorflow, pytorch = FakeTFServing({"pair": [1]}), FakeTorchServe({"double": ["1"]})
    servers = {
        "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
        "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
    }
    monkeypatch.setenv("PYTHONPATH", str(packages))
    try:
        found = start_gateway({"servers": servers, "models": {"pair": {}, "double": {}}}, tmp_path, python=ALONE)
        try:
            for model in ("pair@tensorflow", "double@pytorch"):
                found.wait_until(f"/v2/models/{model}/ready", 200)
            yield found
        finally:
            assert found.stop() == 0
    finally:
        tensorflow.close()
        pytorch.close()


def test_the_gateway_runs_on_what_is_left(running: RunningGateway, packages: Path) -> None:
    """Both kinds of servers behind it, REST and gRPC before it, its documentation and its metrics."""
    names = ("query", "candidates")
    entries = [{"name": name, "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]} for name in names]
    answer = running.client.post("/v2/models/pair@tensorflow/infer", json={"inputs": entries})
    assert answer.json()["outputs"][0]["data"] == [5.0]
    assert running.infer("double@pytorch", [1.0, 2.0]).json()["outputs"][0]["data"] == [2.0, 4.0]
    for path in ("/openapi.json", "/docs", "/metrics"):
        assert running.admin.get(path).status_code == 200, path
    with fronts.channel(running) as opened:  # type: ignore[arg-type]
        live = opened.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=20) == b"\x08\x01"


def test_every_module_of_the_gateway_is_imported_from_what_is_left(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(packages))
    done = subprocess.run([*ALONE, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    count, place = done.stdout.split()
    assert int(count) > 100
    assert place.startswith(str(packages))
