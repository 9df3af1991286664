"""R2, R3, R9, R21 on the real servers: stopped and dying TorchServe workers, a killed TensorFlow server, swaps."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.calls import MODEL, RATE, Calls
from tests.faults.findings import SCALE, Findings, run
from tests.faults.rig import until
from tests.stack import ARTIFACTS, READY, START_SECONDS, Stack, start_stack

pytestmark = pytest.mark.faults
Found = Callable[[str, str], Findings]
#: Of the table's twenty; each takes a server about four seconds.
SWAPS = max(4, round(20 * SCALE))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one model, to be added to and taken from."""
    folder = tmp_path_factory.mktemp("artifacts")
    for framework in ("tensorflow", "pytorch"):
        for path in sorted((ARTIFACTS / framework).glob(f"{MODEL}*")):
            target = folder / framework / path.name
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    training = ARTIFACTS / "training" / MODEL
    if training.is_dir():
        shutil.copytree(training, folder / "training" / MODEL)
    return folder


@pytest.fixture(scope="module")
def stack(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    options = ["--artifacts", str(artifacts), "--models", MODEL, "--timeout", "240"]
    started = start_stack(tmp_path_factory.mktemp("real"), *options)
    try:
        started.wait_for_text(READY, START_SECONDS)
        yield started
    finally:
        started.stop()


def processes(stack: Stack, word: str) -> list[psutil.Process]:
    found = []
    for process in stack.children():
        with suppress(psutil.NoSuchProcess):
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


def workers(stack: Stack) -> list[psutil.Process]:
    return processes(stack, "model_service_worker")


def beside(findings: Findings, others: Calls) -> None:
    window = findings.saw("other", others.window())
    findings.must("the other framework's requests all succeed", window.outcomes, window.success == 1)


def test_a_worker_of_torchserve_hangs(stack: Stack, found: Found) -> None:
    """READY and Healthy all the while; nothing is computed."""
    findings = found("R3", "SIGSTOP of TorchServe's workers")

    async def scenario() -> None:
        async with Calls(stack.http_port, "pytorch") as calls, Calls(stack.http_port, "tensorflow") as others:
            await until(calls.well, "answers")
            stopped = workers(stack)
            for process in stopped:
                process.send_signal(signal.SIGSTOP)
            begin = len(calls.samples)
            await asyncio.sleep(6)
            for process in stopped:
                process.send_signal(signal.SIGCONT)
            recovery = await until(calls.well, "answers again", seconds=60)
            during = findings.saw("during", calls.window(begin))
            findings.must("only 503 and 504", during.outcomes, set(during.outcomes) <= {"ok", "503", "504", "429"})
            late = during.outcomes["504"]
            findings.must("after a few time-outs it is left out", late, 1 <= late <= 3 * RATE)
            findings.must("answers again <= 15 s after", round(recovery, 1), recovery <= 15, timed=True)
            beside(findings, others)

    run(scenario())
    findings.judge()


def test_a_worker_of_torchserve_dies_again_and_again(stack: Stack, found: Found) -> None:
    findings = found("R21", "TorchServe's worker killed three times")

    async def scenario() -> None:
        async with Calls(stack.http_port, "pytorch") as calls, Calls(stack.http_port, "tensorflow") as others:
            await until(calls.well, "answers")
            begin = len(calls.samples)
            for _ in range(3):

                async def there() -> bool:
                    return bool(workers(stack))

                await until(there, "a worker", seconds=30)
                for process in workers(stack):
                    process.kill()
                await asyncio.sleep(1)
            recovery = await until(calls.well, "answers again", seconds=90)
            during = findings.saw("during", calls.window(begin))
            findings.must("no 500, nothing lost", during.outcomes, not during.outcomes["500"] + during.outcomes["lost"])
            findings.must("answers again", round(recovery, 1), True)
            beside(findings, others)

    run(scenario())
    findings.judge()


def test_the_tensorflow_server_is_killed(stack: Stack, found: Found) -> None:
    findings = found("R2", "kill -9 of the TensorFlow server")

    async def scenario() -> None:
        async with Calls(stack.http_port, "tensorflow") as calls, Calls(stack.http_port, "pytorch") as others:
            await until(calls.well, "answers")
            begin = len(calls.samples)
            for process in [*processes(stack, "serving.embedded"), *processes(stack, "tensorflow_model_server")]:
                process.kill()
            await until(calls.failing, "it to be missed", seconds=10)
            recovery = await until(calls.well, "answers again", seconds=90)
            during = findings.saw("during", calls.window(begin))
            findings.must("only 503", during.outcomes, set(during.outcomes) <= {"ok", "503"})
            p99 = during.quantile(0.99, "503")
            findings.must("told within 50 ms (p99)", p99, p99 <= 0.05, timed=True)
            findings.must("answers again", round(recovery, 1), True)
            beside(findings, others)

    run(scenario())
    findings.judge()


def test_versions_are_swapped_in_the_tensorflow_server(stack: Stack, artifacts: Path, found: Found) -> None:
    """Each new version is copied in beside the last, which is then taken away, as a roll-out does."""
    findings = found("R9", "version swaps in the TensorFlow server")
    folder = artifacts / "tensorflow" / MODEL

    async def scenario() -> None:
        async with Calls(stack.http_port, "tensorflow") as calls, Calls(stack.http_port, "pytorch") as others:
            await until(calls.well, "answers")
            for version in range(3, 3 + SWAPS):
                shutil.copytree(folder / "2", folder / ".coming")
                (folder / ".coming").rename(folder / str(version))

                async def serves(version: int = version) -> bool:
                    return str(version) in calls.versions

                await until(serves, f"version {version} to answer", seconds=30)
                if version > 3:
                    shutil.rmtree(folder / str(version - 1))
                    await asyncio.sleep(2.5)  # the server looks each second
            during = findings.saw("during", calls.window())
            findings.must("nobody fails", during.failed, not during.failed)
            beside(findings, others)

    run(scenario())
    findings.judge()
