"""R10, R15, R21, R22: the gateway's own end, its clock, a worker that dies, and an hour of work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.faults import echo
from tests.faults.findings import Findings, run
from tests.faults.load import Load
from tests.faults.rig import Rig, until
from tests.stack import ROOT

Found = Callable[[str, str], Findings]
RATE = 50


def test_r10_sigterm_under_load(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Readiness says no at once; whoever comes before having seen it is served; and it ends with 0."""
    findings = found("R10", "SIGTERM under load; a second one")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, linger_seconds=2, **batching) as rig:
            assert rig.process is not None
            async with Load(rig.ports, rate=RATE) as load:
                await load.seconds(2)
                rig.process.send_signal(signal.SIGTERM)
                begun = time.monotonic()

                async def refuses() -> bool:
                    return (await rig.admin.get("/readyz")).status_code == 503

                said = await until(refuses, "readiness to say no", seconds=5)
                await load.seconds(1)
            during = findings.saw("during", load.window())
            code = await asyncio.to_thread(rig.process.wait, 30)
            seconds = time.monotonic() - begun
            findings.must("readiness says no at once", said, said <= 0.5, timed=True)
            findings.must("0 lost of those accepted", during.failed, not during.failed)
            findings.must(
                "exit code 0 within linger + drain", f"{code} after {seconds:.1f} s", not code and seconds < 32
            )
        await _ends_at_once(findings, kind, tmp_path)

    run(scenario())
    findings.judge()


async def _ends_at_once(findings: Findings, kind: str, folder: Path) -> None:
    async with Rig(folder, kind, replicas=1, linger_seconds=30) as rig:
        assert rig.process is not None
        await rig.replicas[kind][0].order(seconds=20)
        asked = asyncio.create_task(rig.infer())

        async def at_work() -> bool:
            return bool((await rig.replicas[kind][0].order())["in_flight"])

        await until(at_work, "a request to be worked on")
        rig.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        rig.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(rig.process.wait, 20)
        seconds = time.monotonic() - begun
        findings.must("a second SIGTERM ends it within 1 s", seconds, seconds <= 1.5, timed=True)
        with suppress(httpx.TransportError):
            answer = await asked
            findings.must("whoever was at work is told 503", answer.status_code, answer.status_code == 503)


@pytest.mark.faults
def test_r15_the_clock_jumps_by_an_hour(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    findings = found("R15", "wall clock +1 h, then -1 h")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, **batching) as rig, Load(rig.ports, rate=RATE) as load:
            assert rig.process is not None
            await load.seconds(1)
            for shift in (3600, -3600, 0):
                (tmp_path / "duet.shift").write_text(str(shift))
                rig.process.send_signal(signal.SIGUSR1)
                await load.seconds(2)
            during = findings.saw("during", load.window())
            findings.must("nothing expires or hangs", during.failed, not during.failed)
            ready = (await rig.admin.get("/readyz")).status_code
            findings.must("ready", ready, ready == 200)

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r21_poison_and_a_worker_that_dies(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """A request that kills each server it reaches does not go round them all; others hardly notice."""
    findings = found("R21", "poison requests; kill -9 of a gateway's worker")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=3, **batching) as rig, Load(rig.ports, rate=RATE) as load:
            await load.seconds(1)
            answer = await rig.infer(first=echo.POISON)
            await load.seconds(3)
            alive = sum(psutil.pid_exists(r.pid) and _runs(r.pid) for r in rig.replicas[kind])
            during = findings.saw("during", load.window())
            findings.must("the poison is told 502 or 503", answer.status_code, answer.status_code in (502, 503))
            findings.must("it kills two at most: one try, one retry", 3 - alive, 1 <= alive <= 2)
            findings.must("others >= 99 %", during.success, during.success >= 0.99)
        await _worker_dies(findings, kind, tmp_path)

    run(scenario())
    findings.judge()


def _runs(pid: int) -> bool:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def _worker_dies(findings: Findings, kind: str, folder: Path) -> None:
    async with Rig(folder, kind, replicas=1) as rig:
        settings = json.loads((folder / "duet.yaml").read_text())
        for server in settings["servers"].values():
            for name in ("endpoint", "management"):
                if name in server:
                    server[name] = server[name].replace(f"servers-{kind}", rig.replicas[kind][0].host)
        assert rig.process is not None
        rig.process.terminate()
        await asyncio.to_thread(rig.process.wait, 20)
        path = folder / "workers.yaml"
        path.write_text(json.dumps({**settings, "workers": 2, "auth": {"mode": "off"}}))
        with rig.log.open("ab") as stream:
            command = [sys.executable, "-m", "gateway", "--config", str(path)]
            rig.process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)  # noqa: ASYNC220
        await rig.until_status("/v2/health/ready", 200)
        async with Load(rig.ports, rate=RATE) as load:
            await load.seconds(2)
            killed = load.mark
            worker = psutil.Process(rig.process.pid).children()[0]
            at_work = load.sent - load.mark
            worker.kill()
            await load.seconds(4)
            during = findings.saw("after", load.window(killed))
        failed = during.failed
        findings.must("only those at work in it fail", failed, failed <= at_work + 16)
        live = (await rig.admin.get("/healthz")).status_code
        findings.must("live", live, live == 200)
        rig.process.terminate()
        await asyncio.to_thread(rig.process.wait, 20)


@pytest.mark.faults
def test_r22_soak(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """``SOAK`` seconds: 20 by default, in which only a large leak shows; 600 and more are judged by the table."""
    findings = found("R22", "soak at 60 %")
    seconds = float(os.environ.get("SOAK", "20"))

    async def scenario() -> None:
        async with Rig(tmp_path, kind, **batching) as rig, Load(rig.ports, rate=120, deadline_seconds=5) as load:
            await load.seconds(max(3.0, seconds / 10))
            start, memory = load.mark, []
            findings.gauge("before", rig)
            begun = time.monotonic()
            while time.monotonic() - begun < seconds:
                await load.seconds(1)
                memory.append((time.monotonic() - begun, rig.memory_bytes))
            findings.gauge("after", rig)
            every = load.window(start)
            half = len(every.samples) // 2
            first = findings.saw("before", load.window(start, start + half))
            second = findings.saw("after", load.window(start + half))
            per_hour = float(np.polyfit(*np.array(memory).T, 1)[0]) * 3600 / (1 << 20)
            grown = (memory[-1][1] - memory[0][1]) / (1 << 20)
            findings.must("nobody fails", every.failed, not every.failed)
            if seconds >= 600:
                findings.must("memory grows <= 1 MB/h", f"{per_hour:.2f} MiB/h", per_hour <= 1)
            else:
                findings.must("memory grows <= 4 MiB in all", f"{grown:.2f} MiB", grown <= 4)
            drift = second.quantile(0.99, "ok") / max(1e-9, first.quantile(0.99, "ok")) - 1
            allowed = 1.1 * first.quantile(0.99, "ok") + max(first.late, second.late)
            findings.must("p99 drifts <= 10 %", f"{drift:.1%}", second.quantile(0.99, "ok") <= allowed, timed=True)
            tasks = findings.gauges["after"]["tasks"] - findings.gauges["before"]["tasks"]
            findings.must("tasks do not pile up", tasks, tasks <= 40)

    run(scenario())
    findings.judge()
