"""R9, R11 to R13, R19, R20, R23: swaps, overload, retries, deadlines, addresses, tokens, stale connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import pytest

from tests.faults.findings import SCALE, Findings, run
from tests.faults.load import Load
from tests.faults.replica import Script
from tests.faults.rig import Rig, until
from tests.faults.torchserve import write_keys

Found = Callable[[str, str], Findings]
RATE = 50


@pytest.mark.faults
def test_r09_versions_are_swapped_under_load(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Each swap brings a version up beside the old one and then takes the old one away, as both servers do."""
    findings = found("R9", "20 version swaps under load")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, refresh_seconds=0.2, **batching) as rig:
            replica = rig.replicas[kind][0]
            await replica.order(versions=[1, 9])
            await rig.until_status("/v2/models/echo/versions/9/ready", 200)
            async with Load(rig.ports, rate=RATE) as load, Load(rig.ports, rate=RATE, version=9, rows=48) as pinned:
                await load.seconds(0.5)
                for swap in range(20):
                    old, new = 10 + swap, 11 + swap
                    await replica.order(versions=[9, old, new])
                    await load.answered(30)
                    await replica.order(versions=[9, new])
                    await load.answered(30)
                every, of_nine = findings.saw("during", load.window()), findings.saw("pinned", pinned.window())
                findings.must("nobody fails", every.failed, not every.failed)
                findings.must("pinned: nobody fails, no other version", of_nine.failed, not of_nine.failed)
                findings.must(">= 20 versions answered", len(load.versions), len(load.versions) >= 20)
                findings.gauge("after", rig)

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r11_three_times_the_load(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """What it can do it goes on doing; the rest is told at once. The limit is not told what the server can do.

    Batches are of two rows and take twice as long, so that the server's capacity is the same.
    """
    findings = found("R11", "3x overload")
    capacity, batched = 100, batching["batching"]["enabled"]
    seconds_each = 0.08 if batched else 0.04
    slo = 6 * seconds_each

    async def scenario() -> None:
        settings = {"batching": {"enabled": batched, "rows": "independent", "max_rows": 2, "in_flight": 4}}
        async with Rig(tmp_path, kind, replicas=1, **settings) as rig:
            await rig.replicas[kind][0].order(workers=4, seconds=seconds_each)
            async with Load(rig.ports, rate=0.225 * capacity) as load:
                await load.seconds(30 * SCALE)
                before = findings.saw("before", load.window())
                async with Load(rig.ports, rate=1.275 * capacity, rows=48) as flood:
                    await flood.seconds(3)
                    start, begun, mine = flood.mark, perf_counter(), load.mark
                    await flood.seconds(max(8.0, 60 * SCALE))
                    seconds = perf_counter() - begun
                    during = findings.saw("during", flood.window(start))
                    beside = load.window(mine)
                ended = perf_counter()
                await load.seconds(5)
                last = max((s.at for s in load.samples if s.outcome != "ok"), default=0.0) - ended
                findings.saw("after", load.window(load.mark - 50))
                goodput = (during.outcomes["ok"] + beside.outcomes["ok"]) / seconds
                findings.must("goodput >= 90 % of 100/s", goodput, goodput >= 0.9 * capacity, timed=True)
                p99 = max(during.quantile(0.99, "ok"), beside.quantile(0.99, "ok"))
                findings.must(
                    f"p99 of the answered <= 1.2 x {1000 * slo:.0f} ms", p99, p99 <= 1.2 * slo + during.late, timed=True
                )
                refused = [s for s in during.samples if s.outcome in ("429", "RESOURCE_EXHAUSTED")]
                quick = sum(s.seconds <= 0.01 + s.late_seconds for s in refused) / max(1, len(refused))
                findings.must("share of refusals within 10 ms", quick, quick >= 0.9, timed=True)
                findings.must("others neither fail nor are lost", during.outcomes, _only_refused(during.outcomes))
                findings.must(
                    "well again <= 5 s after", max(0.0, last), last <= 5 and load.window(load.mark - 50).success == 1
                )
                findings.must("well before", before.success, before.success >= 0.999)

    run(scenario())
    findings.judge()


def _only_refused(outcomes: dict[str, int]) -> bool:
    return set(outcomes) <= {"ok", "429", "RESOURCE_EXHAUSTED"}


@pytest.mark.faults
def test_r12_a_server_that_always_fails_is_not_stormed(
    kind: str, batching: dict[str, Any], found: Found, tmp_path: Path
) -> None:
    """Without a breaker, so that nothing else spares the server."""
    findings = found("R12", "100 % errors: retry storm")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, breaker={"enabled": False}, **batching) as rig:
            replica = rig.replicas[kind][0]
            async with Load(rig.ports, rate=100) as load:
                begun = perf_counter()
                await load.seconds(1)
                await replica.order(fault="crash", seconds=0.001)
                healthy = load.mark
                await load.seconds(4)
                attempts, sent = (await replica.order())["predicted"], load.sent
                during = findings.saw("during", load.window(healthy))
                again = await rig.metric('duet_retries_total{model="echo",outcome="retried"')
            bound = 1.2 * sent + 10 * (perf_counter() - begun)
            findings.must("attempts <= 1.2 x requests + 10/s", {"attempts": attempts, "sent": sent}, attempts <= bound)
            findings.must("some were tried again", again, again >= 20)
            findings.must("told 503", during.outcomes, set(during.outcomes) <= {"ok", "503", "UNAVAILABLE"})

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r13_deadlines_hold_and_travel(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """A server of 500 ms and deadlines of 100: 504 then, and what has expired is not sent any more."""
    findings = found("R13", "deadline 100 ms, server 500 ms")

    async def scenario() -> None:
        async with Rig(tmp_path, kind, replicas=1, breaker={"enabled": False}, **batching) as rig:
            replica = rig.replicas[kind][0]
            await replica.order(seconds=0.5, workers=1)
            async with Load(rig.ports, rate=40, deadline_seconds=0.1) as load:
                await load.seconds(3)
            during = findings.saw("during", load.window())
            late = {"504", "DEADLINE_EXCEEDED"}
            only = set(during.outcomes) <= late | {"429", "RESOURCE_EXHAUSTED"}
            findings.must("504, or refused", during.outcomes, only and bool(set(during.outcomes) & late))
            p50, p99 = during.quantile(0.5, *late), during.quantile(0.99, *late)
            findings.must("504 after 100 ms (p50)", p50, 0.095 <= p50 <= 0.12 + during.late, timed=True)
            findings.must("504 within 120 ms (p99)", p99, p99 <= 0.12 + 2 * during.late, timed=True)
            counts = await replica.order(seconds=0.01, workers=8)
            if kind == "tfserving":
                # Not the largest: what the gateway tries out of itself, about once, has a time-out of its own.
                passed_on = median(counts["timeouts"])
                findings.must("at most 95 ms are passed on", passed_on, passed_on <= 0.0955)
            await asyncio.sleep(1)
            after = (await replica.order())["predicted"]
            findings.must(
                "nothing is sent after its deadline", after - counts["predicted"], after == counts["predicted"]
            )

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r19_addresses_come_and_go(kind: str, batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """And gRPC connections are told to go every two seconds."""
    findings = found("R19", "new replica, old one gone; GOAWAY each 2 s")
    options = ["--age-seconds", "2"]

    async def scenario() -> None:
        async with Rig(tmp_path, kind, of_replicas=options, **batching) as rig:
            old, new = rig.replicas[kind]
            rig.resolve({kind: [old.host]})
            await asyncio.sleep(3)
            async with Load(rig.ports, rate=RATE) as load:
                await load.seconds(1)
                counted = (await new.order())["predicted"]
                rig.resolve({kind: [old.host, new.host]})

                async def called() -> bool:
                    return bool((await new.order())["predicted"] > counted)

                seconds = await until(called, "the new replica to be called", seconds=20)
                await load.seconds(2)
                rig.resolve({kind: [new.host]})
                await load.seconds(4)
                settled = (await old.order())["predicted"]
                await load.seconds(2)
                left = (await old.order())["predicted"] - settled
                during = findings.saw("during", load.window())
                findings.must("called <= 5 s after it is named", seconds, seconds <= 5, timed=True)
                findings.must("the one that is gone is called no more", left, not left)
                findings.must("nobody fails", during.failed, not during.failed)

    run(scenario())
    findings.judge()


@pytest.mark.faults
def test_r20_tokens_expire_and_change(batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """Keys of four seconds; and once all new ones, as of a TorchServe that was started anew."""
    findings = found("R20", "TorchServe's tokens expire; new keys")

    async def scenario() -> None:
        rig = Rig(tmp_path, "torchserve", replicas=1, **batching)
        script = Script(key_file=str(rig.key_file), key_seconds=4)
        write_keys(script, rig.key_file)
        async with rig:
            replica = rig.replicas["torchserve"][0]
            await replica.order(key_file=script.key_file, key_seconds=script.key_seconds)
            first = rig.key_file.read_text()
            async with Load(rig.ports, rate=RATE) as load:
                await load.seconds(10)
                renewed = rig.key_file.read_text() != first
                write_keys(script, rig.key_file)
                await load.seconds(3)
                during = findings.saw("during", load.window())
            findings.must("the keys were renewed", renewed, renewed)
            findings.must("nobody fails", during.failed, not during.failed)

    run(scenario())
    findings.judge()


def test_r23_connections_are_closed_while_idle(batching: dict[str, Any], found: Found, tmp_path: Path) -> None:
    """The server closes after 50 ms of silence, which is when the next request comes, again and again."""
    findings = found("R23", "stale keep-alive")

    async def scenario() -> None:
        async with Rig(tmp_path, "torchserve", replicas=1, retry={"enabled": False}, **batching) as rig:
            await rig.replicas["torchserve"][0].order(idle_seconds=0.05, seconds=0)
            async with Load(rig.ports, rate=10) as load:
                await load.seconds(6)
            during = findings.saw("during", load.window())
            findings.must("nobody fails", during.failed, not during.failed)

    run(scenario())
    findings.judge()
