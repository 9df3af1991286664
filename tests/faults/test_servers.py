"""R1 to R4, R7, R8: servers that die, hang, crawl, break off and lie."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import pytest

from tests.faults.findings import SCALE, Findings, run, steady
from tests.faults.load import Load
from tests.faults.rig import Rig, until

Found = Callable[[str, str], Findings]
#: A second and front: 60 % of the 400 a second that the one replica can do which is left, over both fronts.
RATE = 120
BEFORE, AFTER = 30 * SCALE, 60 * SCALE


@pytest.mark.faults
def test_r01_one_of_two_replicas_is_killed(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Nobody but those on their way at that moment may notice, and it is called again soon after it is back."""
    findings = found("R1", "kill -9, one of two replicas")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, **batching) as rig, Load(rig.ports, rate=RATE) as load:
            victim = rig.replicas[kind][0]
            await load.seconds(1)
            start = load.mark
            await load.seconds(BEFORE)
            killed, at = load.mark, perf_counter()
            victim.kill()
            await load.seconds(AFTER)
            back = load.mark
            await victim.restart()
            returned = monotonic()

            async def called() -> bool:
                return bool((await victim.order())["predicted"])

            await until(called, "the replica to be called again", seconds=20)
            recovery = monotonic() - returned
            await load.seconds(2)
            before = findings.saw("before", load.window(start, killed))
            during = findings.saw("during", load.window(killed, back))
            findings.saw("after", load.window(back))
            findings.gauge("after", rig)
            every = load.window(start)
            late = [sample for sample in every.samples if sample.outcome != "ok" and sample.at > at]
            findings.must("success >= 99.9 %", every.success, every.success >= 0.999)
            findings.must("nobody fails who came after the kill", len(late), not late)
            findings.must("p99 <= 2x", during.quantile(0.99, "ok"), steady(during, before, 2), timed=True)
            findings.must("called again <= 5 s after it is back", recovery, recovery <= 5, timed=True)

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r02_the_only_replica_is_killed(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Its callers are told at once and when to come again; callers of the other framework feel nothing."""
    findings = found("R2", "kill -9, the only replica")
    other = "tfserving" if kind == "torchserve" else "torchserve"

    async def scenario() -> None:
        async with (
            Rig(tmp_path, kind, other, replicas=1, **batching) as rig,
            Load(rig.ports, rate=50, model=f"echo@{kind}") as load,
            Load(rig.ports, rate=50, model=f"echo@{other}", rows=48) as bystanders,
        ):
            await load.seconds(1)
            start = bystanders.mark
            await bystanders.seconds(BEFORE)
            killed = bystanders.mark
            rig.replicas[kind][0].kill()
            await load.answered(20)
            dead = load.mark
            await load.seconds(AFTER)
            during = findings.saw("during", load.window(dead))
            answer = await rig.infer(f"echo@{kind}")
            before, beside = bystanders.window(start, killed), bystanders.window(killed)
            findings.saw("before", before)
            findings.saw("after", beside)
            only = set(during.outcomes) <= {"503", "UNAVAILABLE"}
            findings.must("503 or UNAVAILABLE", during.outcomes, only)
            findings.must("Retry-After", answer.headers.get("retry-after"), "retry-after" in answer.headers)
            p99 = during.quantile(0.99)
            findings.must("told within 50 ms (p99)", p99, p99 <= 0.05 + during.late, timed=True)
            findings.must(
                "the other's p99 moves <= 5 %", beside.quantile(0.99), steady(beside, before, 1.05), timed=True
            )
            findings.must("the other's requests all succeed", beside.success, beside.success == 1)

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r03_one_of_two_replicas_hangs(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Its port still accepts. It is left out after a few time-outs, and what it answers late goes to nobody."""
    findings = found("R3", "SIGSTOP, one of two replicas")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, **batching) as rig, Load(rig.ports, rate=RATE) as load:
            await load.seconds(1)
            start = load.mark
            await load.seconds(BEFORE)
            stopped = load.mark
            rig.replicas[kind][0].signal(signal.SIGSTOP)
            await load.seconds(max(8.0, AFTER))
            resumed = load.mark
            rig.replicas[kind][0].signal(signal.SIGCONT)
            await load.seconds(3)
            before = findings.saw("before", load.window(start, stopped))
            findings.saw("during", load.window(stopped, resumed))
            findings.saw("after", load.window(resumed))
            moved = await rig.metric('duet_retries_total{model="echo",outcome="overdue"')
            every = load.window(stopped)
            lost = sorted((s for s in every.samples if s.outcome != "ok"), key=lambda s: s.at + s.seconds)
            fifth = [sample.at + sample.seconds for sample in lost][:5][-1] if lost else 0.0
            longer = max([sample.at - fifth for sample in lost], default=0.0)
            allowed = max(3 * before.quantile(0.99, "ok"), 1.0)
            findings.must("success >= 99 %", every.success, every.success >= 0.99)
            findings.must("called for <= max(3 x p99, 1 s) after the fifth time-out", longer, longer <= allowed)
            findings.must("lost <= 64, its limit", len(lost), len(lost) <= 64)
            called = len(lost) + moved
            findings.must("some were lost or sent again: it was called when it stopped", called, called >= 1)

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r03_the_only_replica_describes_and_predicts_nothing(
    kind: str, batching: dict[str, Any], found: Found, tmp_path: Path
) -> None:
    """It says that it is ready all the while, as a TorchServe does whose worker hangs: only its calls tell.

    Nobody else could answer; but callers need not wait for their deadline to hear so, nor does work pile up there.
    """
    findings = found("R3", "the only replica READY, and hung")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, **batching) as rig, Load(rig.ports, rate=RATE) as load:
            replica = rig.replicas[kind][0]
            await load.seconds(1)
            start = load.mark
            await load.seconds(BEFORE)
            hung = load.mark
            await replica.order(fault="stall")
            await load.seconds(4)
            settled, called = load.mark, (await replica.order())["predicted"]
            await load.seconds(6)
            called = (await replica.order(fault=""))["predicted"] - called
            recovery = await until(lambda: _well(rig), "it to be called again", seconds=20)
            findings.saw("before", load.window(start, hung))
            during = findings.saw("during", load.window(settled))
            quick = sum(during.outcomes[code] for code in ("503", "UNAVAILABLE", "429", "RESOURCE_EXHAUSTED"))
            findings.must(">= 90 % told at once", quick / during.sent, quick >= 0.9 * during.sent)
            p50 = during.quantile(0.5)
            findings.must("told within 50 ms (p50)", p50, p50 <= 0.05 + during.late, timed=True)
            findings.must("called <= 3 times a second", called, called <= 3 * 6)
            findings.must("called again <= 5 s after it is well", recovery, recovery <= 5, timed=True)

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r04_one_of_two_replicas_is_ten_times_slower(
    kind: str, batching: dict[str, Any], found: Found, tmp_path: Path
) -> None:
    findings = found("R4", "one of two replicas 10x slower")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, **batching) as rig, Load(rig.ports, rate=RATE) as load:
            slow, fast = rig.replicas[kind]
            await load.seconds(1)
            start = load.mark
            await load.seconds(BEFORE)
            slowed = load.mark
            await slow.order(seconds=0.2)
            await load.seconds(5)
            settled = load.mark
            counts = [(await replica.order())["rows"] for replica in (slow, fast)]
            await load.seconds(AFTER)
            shares = [
                (await replica.order())["rows"] - count for replica, count in zip((slow, fast), counts, strict=True)
            ]
            before = findings.saw("before", load.window(start, slowed))
            findings.saw("during", load.window(slowed, settled))
            after = findings.saw("after", load.window(settled))
            share = shares[0] / max(1, sum(shares))
            findings.must(">= 80 % of its half moved within 5 s", share, share <= 0.1)
            findings.must("p99 <= 2x", after.quantile(0.99, "ok"), steady(after, before, 2), timed=True)
            findings.must("nobody fails", load.window(start).failed, not load.window(start).failed)

    run(scenario())
    findings.judge()


def test_r07_answers_break_off(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """A single break is made good by one retry; one that goes on is told, never half an answer."""
    findings = found("R7", "reset before, in, and after the headers")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, breaker={"enabled": False}, **batching) as rig:
            replica = rig.replicas[kind][0]
            for fault, after_bytes in (("reset_before", 0), ("reset_mid", 5), ("reset_mid", 60), ("reset_mid", 0)):
                name = f"{fault}@{after_bytes}"
                await replica.order(fault=fault, after_bytes=after_bytes, hits=1)
                once = await rig.infer()
                findings.must(f"{name} once: retried", once.status_code, once.status_code == 200)
                before = (await replica.order(hits=-1))["predicted"]
                answers = [await rig.infer() for _ in range(5)]
                after = (await replica.order(fault=""))["predicted"]
                statuses = {answer.status_code for answer in answers}
                findings.must(f"{name} always: 502 or 503", sorted(statuses), statuses <= {502, 503})
                findings.must(f"{name} always: at most one retry", after - before, after - before <= 10)
                await rig.until_status("/v2/models/echo/ready", 200, seconds=20)
                await until(lambda: _well(rig), "it to be called again", seconds=20)
                await asyncio.sleep(1.2)  # gRPC's channel waits longer after each of several breaks
            tracebacks = "Traceback" in rig.log.read_text()
            findings.must("no traceback", tracebacks, not tracebacks)

    run(scenario())
    findings.judge()


async def _well(rig: Rig) -> bool:
    return (await rig.infer()).status_code == 200


GARBAGE = ("noise", "html", "huge_shape", "wrong_rows", "wrong_name", "missing", "bomb")
#: Whole answers that the model did not declare, and such as are larger than the gateway takes: one caller's request may
#: be the reason, and nobody else's.
OF_THE_REQUEST = {"wrong_dtype": 400, "wrong_shape": 400}
ONLY_HTTP = {"huge_length": 413, "endless": 413}


def test_r08_answers_are_garbage(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Each is 502 and counts against the endpoint, and none is held in memory beyond the bound on answers.

    What one request can be the reason of is told as such, and counts against nobody.
    That rows are kept (``wrong_rows``: one too many) is told to the gateway: the signature leaves the dimension free.
    """
    findings = found("R8", "garbage in place of answers")

    async def scenario() -> None:
        settings = {"breaker": {"enabled": False}, "retry": {"enabled": False}, **batching}
        models = {"echo": {"outputs_by_row": True}}
        async with Rig(tmp_path, kind, replicas=1, models=models, **settings) as rig:
            replica = rig.replicas[kind][0]
            assert (await rig.infer()).status_code == 200
            base = top = rig.memory_bytes
            expected = {**dict.fromkeys(GARBAGE, 502), **OF_THE_REQUEST}
            if kind == "torchserve":
                expected |= ONLY_HTTP
            for fault, status in expected.items():
                await replica.order(fault=fault)
                asked = asyncio.gather(*(rig.infer() for _ in range(2)))
                while not asked.done():
                    top = max(top, rig.memory_bytes)
                    await asyncio.sleep(0.01)
                statuses = [answer.status_code for answer in await asked]
                findings.must(f"{fault}: {status}", statuses, set(statuses) == {status})
                await replica.order(fault="")
                await until(lambda: _well(rig), "it to be called again", seconds=20)
            growth = (top - base) >> 20
            findings.must("memory grows <= 2x the 64 MiB cap", f"{growth} MiB", growth <= 128)
            tracebacks = "Traceback" in rig.log.read_text()
            findings.must("no traceback", tracebacks, not tracebacks)

    run(scenario())
    findings.judge()
