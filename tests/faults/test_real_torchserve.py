"""R9 and R20 on a real TorchServe: versions registered and taken away over its management API, tokens that expire."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.children import Child
from serving.torchserve import TorchServe, TorchServePorts, find_archives, find_java
from tests.faults.calls import MODEL, Calls
from tests.faults.findings import SCALE, Findings, run
from tests.faults.rig import until
from tests.stack import ARTIFACTS, ROOT, free_ports

pytestmark = pytest.mark.faults
Found = Callable[[str, str], Findings]
SWAPS = max(4, round(20 * SCALE))
START_SECONDS = 120


@dataclass
class Served:
    """A TorchServe of one model, and a gateway in front of it."""

    server: TorchServe
    http_port: int

    def key(self) -> str:
        return str(json.loads(self.server.key_file.read_text())["management"]["key"])

    async def manage(self, method: str, path: str) -> None:
        url = f"http://127.0.0.1:{self.server.ports.management}{path}"
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.request(method, url, headers={"authorization": f"Bearer {self.key()}"})
        assert answer.status_code == 200, answer.text

    def archive(self, version: int) -> str:
        """The model once more, as this version; gives the file's name."""
        store = self.server.model_store
        name = f"{MODEL}-{version}.mar"
        with zipfile.ZipFile(store / f"{MODEL}-2.mar") as old, zipfile.ZipFile(store / name, "w") as new:
            for entry in old.namelist():
                data = old.read(entry)
                if entry == "MAR-INF/MANIFEST.json":
                    manifest = json.loads(data)
                    manifest["model"]["modelVersion"] = str(version)
                    data = json.dumps(manifest).encode()
                new.writestr(entry, data)
        return name


@contextmanager
def served(folder: Path, **properties: str) -> Iterator[Served]:
    """``properties`` are TorchServe's, in place of ours."""
    inference, management, metrics, grpc, grpc_management, http, own_grpc, admin = free_ports(8)
    store = folder / "store"
    store.mkdir()
    shutil.copy(ARTIFACTS / "pytorch" / f"{MODEL}-2.mar", store)
    ports = TorchServePorts(
        inference=inference,
        management=management,
        metrics=metrics,
        grpc_inference=grpc,
        grpc_management=grpc_management,
    )
    server = TorchServe(
        ports=ports,
        model_store=store,
        archives=find_archives(store, [MODEL]),
        folder=folder / "torchserve",
        java=find_java({}),
    )
    with ExitStack() as exits:
        launch = server.launch(folder / "torchserve.log")
        with (server.folder / "config.properties").open("a") as stream:
            stream.writelines(f"{name}={value}\n" for name, value in properties.items())
        child = Child(launch)
        exits.callback(child.kill)
        address = f"http://127.0.0.1:{inference}", f"http://127.0.0.1:{management}"
        entry = {
            "kind": "torchserve",
            "endpoint": address[0],
            "management": address[1],
            "key_file": str(server.key_file),
        }
        settings = {
            "servers": {"pytorch": {**entry, "key_file": str(server.key_file)}},
            "models": {MODEL: {}},
            "auth": {"mode": "off"},
            "http": {"port": http},
            "grpc": {"port": own_grpc},
            "admin": {"port": admin},
        }
        path = folder / "duet.yaml"
        path.write_text(json.dumps(settings))
        with (folder / "gateway.log").open("wb") as stream:
            command = [sys.executable, "-m", "gateway", "--config", str(path)]
            gateway = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        exits.callback(_end, gateway)
        _wait(f"http://127.0.0.1:{http}/v2/models/{MODEL}@pytorch/ready", gateway, folder)
        yield Served(server, http)


def _end(gateway: subprocess.Popen[bytes]) -> None:
    gateway.send_signal(signal.SIGTERM)
    try:
        gateway.wait(40)
    finally:
        gateway.kill()


def _wait(url: str, gateway: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and gateway.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.2)
    logs = [path.read_text()[-2000:] for path in folder.glob("*.log")]
    raise AssertionError(f"{url} is not ready:\n" + "\n".join(logs))


def test_versions_are_swapped_in_torchserve(found: Found, tmp_path: Path) -> None:
    """Each new version is registered, made the default, and the last one taken away, as a roll-out does."""
    findings = found("R9", "version swaps in TorchServe")

    async def scenario() -> None:
        with served(tmp_path, enable_model_api="true", model_api_enabled="true") as stack:
            port = stack.http_port
            # A new worker's start takes a small machine's processors for a second or two.
            calls, pinned = Calls(port, "pytorch", "", 5.0), Calls(port, "pytorch", "2", 5.0)
            async with calls, pinned:
                await until(calls.well, "answers")
                for version in range(3, 3 + SWAPS):
                    url = stack.archive(version)
                    await stack.manage("POST", f"/models?url={url}&initial_workers=1&synchronous=true")
                    await stack.manage("PUT", f"/models/{MODEL}/{version}/set-default")

                    async def serves(version: int = version) -> bool:
                        return str(version) in calls.versions

                    await until(serves, f"version {version} to answer", seconds=30)
                    if version > 3:
                        await stack.manage("DELETE", f"/models/{MODEL}/{version - 1}")
                        await asyncio.sleep(1.5)  # the gateway looks each second
                during, of_two = findings.saw("during", calls.window()), findings.saw("pinned", pinned.window())
                findings.must("nobody fails", during.failed, not during.failed)
                findings.must("pinned: nobody fails", of_two.failed, not of_two.failed)
                findings.must("pinned: no other version", sorted(pinned.versions), pinned.versions == {"2"})
                findings.must("all versions answered", len(calls.versions), len(calls.versions) == SWAPS + 1)

    run(scenario())
    findings.judge()


def test_torchserves_own_tokens_expire(found: Found, tmp_path: Path) -> None:
    """After a minute, the least that TorchServe knows."""
    findings = found("R20", "a real TorchServe's tokens, of a minute")

    async def scenario() -> None:
        with served(tmp_path, token_expiration_min="1") as stack:
            async with Calls(stack.http_port, "pytorch") as calls:
                await until(calls.well, "answers")
                first = stack.key()
                await asyncio.sleep(68)
            during = findings.saw("during", calls.window())
            findings.must("the keys were renewed", stack.key() != first, stack.key() != first)
            findings.must("nobody fails", during.failed, not during.failed)

    run(scenario())
    findings.judge()
