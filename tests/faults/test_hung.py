"""R3 with callers who have half a minute: one of two replicas takes calls and answers none.

A caller's deadline must not be what finds it out: a closed loop of callers would soon wait there, all of them.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter

import grpc.aio
import pytest

from gateway.protos import v2_pb2
from tests.faults import echo
from tests.faults.findings import SCALE, Findings, run, steady
from tests.faults.load import ClosedLoad, Load
from tests.faults.rig import Replica, Rig, until

Found = Callable[[str, str], Findings]
BEFORE, DURING = 15 * SCALE, 30 * SCALE
DEADLINE = 30.0
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass(frozen=True)
class Hang:
    """How a replica hangs, who calls, and whether requests are joined. ``callers`` 0 is 240 requests a second."""

    callers: int
    batched: bool
    stopped: bool = True

    async def begin(self, replica: Replica) -> None:
        """SIGSTOP; or it begins an answer at best, and says all the while that it is ready."""
        if self.stopped:
            replica.signal(signal.SIGSTOP)
        else:
            await replica.order(fault="stall")

    async def end(self, replica: Replica) -> None:
        if self.stopped:
            replica.signal(signal.SIGCONT)
        else:
            await replica.order(fault="")

    def load(self, rig: Rig) -> Load:
        if not self.callers:
            return Load(rig.ports, rate=120, deadline_seconds=DEADLINE)
        return ClosedLoad(rig.ports, callers=self.callers, rate=120, deadline_seconds=DEADLINE)


HANGS = {
    "stopped-64": Hang(64, batched=True),
    "stopped-16": Hang(16, batched=False),
    "stopped-open": Hang(0, batched=False),
    "stalls-16": Hang(16, batched=True, stopped=False),
}


class Stream:
    """One caller with a stream, who sends his next message when the last one was answered. He names no deadline."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered: list[tuple[float, float]] = []

    async def run(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            stream = channel.stream_stream(_STREAM)()
            request = v2_pb2.ModelInferRequest(model_name="echo")
            tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, echo.WIDTH])
            tensor.contents.fp32_contents.extend([1.0] * echo.WIDTH)
            while True:
                at = perf_counter()
                await stream.write(request.SerializeToString())
                answer = v2_pb2.ModelStreamInferResponse.FromString(await stream.read())
                assert not answer.error_message, answer.error_message
                self.answered.append((at, perf_counter() - at))


@pytest.mark.faults
@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_r03_one_of_two_hangs_and_callers_have_half_a_minute(
    kind: str, hang: Hang, found: Found, tmp_path: Path
) -> None:
    """From the second second on it is as if the replica were not there, and it comes back when it goes on."""
    findings = found("R3", "one of two hung, deadlines of 30 s")

    async def scenario() -> None:
        settings = {"batching": {"enabled": hang.batched, "rows": "independent"}}
        async with Rig(tmp_path, kind, **settings) as rig, hang.load(rig) as load:
            victim = rig.replicas[kind][0]
            stream = Stream(rig.ports["grpc"])
            streaming = asyncio.create_task(stream.run())
            await load.seconds(1)
            start = load.mark
            await asyncio.sleep(BEFORE)
            stopped, at = load.mark, perf_counter()
            await hang.begin(victim)
            await asyncio.sleep(1.0)
            settled = load.mark
            await asyncio.sleep(DURING)
            resumed = load.mark
            await hang.end(victim)
            moved = await rig.metric('duet_retries_total{model="echo",outcome="overdue"')
            before = findings.saw("before", load.window(start, stopped))
            during = findings.saw("during", load.window(settled, resumed))
            since = monotonic()
            await asyncio.sleep(0.5)  # what it was sent while it hung has been worked on, for nobody
            known = (await victim.order())["predicted"]

            async def called() -> bool:
                return bool((await victim.order())["predicted"] > known + 5)

            await until(called, "it to be called again", seconds=20)
            recovery = monotonic() - since
            await load.stop()
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
            findings.saw("after", load.window(resumed))
            every = load.window(start)
            longest = max(sample.seconds for sample in every.samples)
            of_stream = max(seconds for begun, seconds in stream.answered if begun > at - 1)
            rate = during.sent / max(1.0, DURING)
            as_before = 0.25 * before.sent / BEFORE
            findings.must("nobody fails", every.failed, not every.failed)
            findings.must("nobody waits for half of his deadline", longest, longest < DEADLINE / 2)
            findings.must("nobody waits longer than 3 s", longest, longest <= 3, timed=True)
            findings.must("nor does a caller with a stream", of_stream, of_stream <= 3, timed=True)
            findings.must(
                "p99 <= 5x from the second second on", during.quantile(0.99), steady(during, before, 5), timed=True
            )
            findings.must("a quarter as many answers at least", rate, rate >= as_before)
            findings.must("some were sent again: it was called when it hung", moved, moved >= 1)
            findings.must("called again <= 5 s after it goes on", recovery, recovery <= 5, timed=True)

    run(scenario())
    findings.judge()
