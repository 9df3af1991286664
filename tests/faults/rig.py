"""The gateway and the servers behind it, each a process of its own, and what can be seen of them from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.stack import ROOT, free_ports

#: Of a start, on a busy machine.
START_SECONDS = 60
_HOST = "servers"


class Replica:
    """One server. Addresses 127.0.0.2 and up, all with one port, as pods behind one name have."""

    def __init__(self, kind: str, host: str, port: int, *options: str, log: Path) -> None:
        self.kind, self.host, self.port = kind, host, port
        self._options = options
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: asyncio.StreamReader | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Not by the event loop: uvloop forks, and gRPC's threads, which send the load here, do not outlive that."""
        arguments = ["--kind", self.kind, "--host", self.host, "--port", str(self.port), *self._options]
        command = [sys.executable, "-m", "tests.faults.replica", *arguments]
        pipe = subprocess.PIPE
        with self._log.open("ab") as stream:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=stream, bufsize=0
            )
        self._lines = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(self._lines)
        loop = asyncio.get_running_loop()
        self._reading, _ = await loop.connect_read_pipe(lambda: protocol, self._process.stdout)
        async with asyncio.timeout(START_SECONDS):
            assert await self._line() == {"ready": True}

    async def order(self, **orders: Any) -> dict[str, Any]:
        """Changes what the server does; gives what it counted so far."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(orders).encode() + b"\n")
        return await self._line()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._reading.close()
            await asyncio.sleep(0.01)  # its pipe is closed in the loop's next round

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def _line(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._lines is not None
        line = await self._lines.readline()
        if not line:
            code = await asyncio.to_thread(self._process.wait)
            raise AssertionError(f"the {self.kind} replica has ended with {code}: {self._log.read_text()[-1000:]}")
        return json.loads(line)  # type: ignore[no-any-return]


class Rig:
    """``kinds`` name the servers: their variants are called as they are. ``settings`` are the gateway's."""

    def __init__(
        self,
        folder: Path,
        *kinds: str,
        replicas: int = 2,
        open_files: int | None = None,
        of_replicas: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.folder = folder
        self._kinds = kinds
        self._count = replicas
        self._open_files = open_files
        self._of_replicas = of_replicas
        self._settings = settings
        self.replicas: dict[str, list[Replica]] = {}
        http, grpc, admin, *others = free_ports(3 + len(kinds))
        self.ports = {"http": http, "grpc": grpc, "admin": admin}
        self._server_ports = dict(zip(kinds, others, strict=True))
        self._hosts = folder / "hosts.json"
        self.log = folder / "gateway.log"
        #: Of TorchServe's tokens; none are asked for where there is no such file.
        self.key_file = folder / "key_file.json"
        self.process: subprocess.Popen[bytes] | None = None
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Rig:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def _start(self) -> None:
        self._exits.push_async_callback(self._stop)
        for kind in self._kinds:
            hosts = [f"127.0.0.{2 + number}" for number in range(self._count)]
            log, port = self.folder / f"{kind}.log", self._server_ports[kind]
            self.replicas[kind] = [Replica(kind, host, port, *self._of_replicas, log=log) for host in hosts]
        every = [replica for replicas in self.replicas.values() for replica in replicas]
        await asyncio.gather(*(replica.start() for replica in every))
        self.resolve({kind: [replica.host for replica in replicas] for kind, replicas in self.replicas.items()})
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports['http']}", timeout=30)
        self.admin = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports['admin']}", timeout=30)
        self._exits.push_async_callback(self.client.aclose)
        self._exits.push_async_callback(self.admin.aclose)
        await self.start_gateway()

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def start_gateway(self) -> None:
        path = self.folder / "duet.yaml"
        path.write_text(json.dumps(self._configuration()))
        command = [sys.executable, "-m", "tests.faults.gateway", str(path), str(self._hosts)]
        limited = ["bash", "-c", f'ulimit -Hn {self._open_files}; exec "$@"', "bash"] if self._open_files else []
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [*limited, *command], cwd=ROOT, stdout=stream, stderr=stream
            )
        for kind in self._kinds:
            await self.until_status(f"/v2/models/echo@{kind}/ready", 200)

    def _configuration(self) -> dict[str, Any]:
        servers: dict[str, Any] = {}
        for kind, port in self._server_ports.items():
            if kind == "tfserving":
                servers[kind] = {"kind": kind, "endpoint": f"{_HOST}-{kind}:{port}"}
            else:
                address = f"http://{_HOST}-{kind}:{port}"
                keys = {"key_file": str(self.key_file)} if self.key_file.exists() else {}
                servers[kind] = {"kind": kind, "endpoint": address, "management": address, **keys}
        own = {name: {"port": port} for name, port in self.ports.items()}
        merged = {name: {**own.get(name, {}), **_section(self._settings, name)} for name in own}
        others = {name: value for name, value in self._settings.items() if name not in own}
        defaults: dict[str, Any] = {"models": {"echo": {}}, "log": {"access": False}, "discover": False}
        settings = {"servers": servers, **defaults, **merged, **others}
        for name, value in json.loads(os.environ.get("DUET_FAULTS_SETTINGS", "{}")).items():
            laid_over = isinstance(value, dict) and isinstance(settings.get(name), dict)
            settings[name] = {**settings[name], **value} if laid_over else value
        return settings

    def resolve(self, addresses: dict[str, list[str]]) -> None:
        """From now on the servers' names stand for these addresses."""
        fresh = self._hosts.with_suffix(".new")
        fresh.write_text(json.dumps({f"{_HOST}-{kind}": found for kind, found in addresses.items()}))
        fresh.rename(self._hosts)

    async def until_status(self, path: str, status: int, *, seconds: float = START_SECONDS) -> float:
        """Waits for this answer; gives the seconds that it took."""

        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            # AttributeError: anyio asks a socket for its peer that was closed as it was opened.
            with suppress(httpx.TransportError, AttributeError):
                return (await self.client.get(path)).status_code == status
            return False

        return await until(answers, f"{path} to answer {status}", seconds=seconds)

    async def infer(self, model: str = "echo", first: float = 1.0, **headers: str) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [first, 0, 0, 0]}
        return await self.client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}, headers=headers)

    async def metric(self, start: str) -> float:
        """The sum of the samples whose lines begin so."""
        text = (await self.admin.get("/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))

    @property
    def memory_bytes(self) -> int:
        return int(self._psutil.memory_info().rss)

    @property
    def descriptors(self) -> int:
        return int(self._psutil.num_fds())

    @property
    def tasks(self) -> int:
        """Of the gateway's event loop, as of its last look-up of a name, at most two seconds or so ago."""
        return int(self._hosts.with_suffix(".tasks").read_text() or 0)

    def processor_seconds(self) -> float:
        times = self._psutil.cpu_times()
        return float(times.user + times.system)

    @property
    def _psutil(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    async def _stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self.process.wait, 10)
            self.process.kill()
            self.process.wait()
        for replicas in self.replicas.values():
            for replica in replicas:
                await replica.stop()


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    found = settings.get(name, {})
    assert isinstance(found, dict)
    return found


async def until(condition: Any, what: str, *, seconds: float = START_SECONDS) -> float:
    begun = time.monotonic()
    while not await condition():
        assert time.monotonic() - begun < seconds, f"waited {seconds:.0f} s for {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun
