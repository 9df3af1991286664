"""What must be true of the instrument. Each check tells its figures, passed or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random

import numpy as np
from numpy.typing import NDArray

from loadtest.analysis.percentiles import percentile
from loadtest.analysis.ratios import paired
from loadtest.analysis.turns import abba
from loadtest.analysis.verdicts import judge
from loadtest.calibration.instrument import SEED, Instrument
from loadtest.generator.job import Job
from loadtest.recorder import Block

MOST_LAG_MS = 1.0
TRUTH_SHARE, TRUTH_MS = 0.03, 0.5
STALL_SHARE = 0.05
DELAY_MS, DELAY_BLOCKS, DELAY_BLOCK_SECONDS, DELAY_RATE = 5.0, 5, 1.2, 300.0
STALL_MS, STALL_AFTER_MS, STALL_BLOCK_SECONDS, STALL_RATE = 1000.0, 3000.0, 8.0, 200.0
AA_RUNS, AA_MOST_DIFFERENT = 40, 5
FIVE_RUNS, FIVE_LEAST_FOUND = 20, 0.9
PAIRS, PAIR_SECONDS, PAIR_RATE = 20, 0.15, 1000.0
ATTEMPTS = 3
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    passed: bool
    text: str


def attempted(check: Callable[[], list[Check]]) -> list[Check]:
    """The first of three attempts that passes: what else the machine does is not the instrument's fault. It is told."""
    attempt, found = 1, check()
    while attempt < ATTEMPTS and not all(one.passed for one in found):
        attempt, found = attempt + 1, check()
    if attempt == 1:
        return found
    return [Check(one.name, one.passed, f"{one.text} (attempt {attempt} of {ATTEMPTS})") for one in found]


def null(instrument: Instrument, figures: dict[str, float], seconds: float = 2.0) -> list[Check]:
    """The generator's own floor and ceiling: lag at a modest rate, requests/s with waiting callers. Fills `figures`."""
    floor, most_http, most_grpc = instrument.measure(
        [
            instrument.job("/null", seconds=seconds, rate=200),
            instrument.job("/null", seconds=seconds, callers=16),
            instrument.job("/grpc.Null/Echo", seconds=seconds, callers=16),
        ]
    )
    lag, service = percentile(floor.lags_ms, 99), percentile(floor.service_ms, 50)
    figures |= {
        "lag_p50_ms": percentile(floor.lags_ms, 50),
        "lag_p99_ms": lag,
        "null_p50_ms": service,
        "most_http_per_second": len(most_http) / seconds,
        "most_grpc_per_second": len(most_grpc) / seconds,
    }
    text = (
        f"requests go out {figures['lag_p50_ms']:.3f} ms late (p99 {lag:.3f} ms, at most {MOST_LAG_MS:g}); "
        f"a null server answers in {service:.3f} ms; at most {figures['most_http_per_second']:,.0f} requests/s over "
        f"HTTP and {figures['most_grpc_per_second']:,.0f} over gRPC"
    )
    return [Check("null server", lag <= MOST_LAG_MS, text)]


def known_delay(instrument: Instrument, *, closed_loop: bool = False) -> list[Check]:
    """A server that adds exactly 5 ms: p50 and p99 are the null server's and those, within 3 % or half a millisecond.

    Medians of five blocks of each, in turns: one pause of the machine is a percent of a block's requests.
    """
    null, path = "/null", f"/known?delay={DELAY_MS:g}&spun=1"
    blocks = instrument.measure(
        [
            instrument.job(null, seconds=DELAY_BLOCK_SECONDS, rate=DELAY_RATE)
            if turn % 2 == 0
            else _job(instrument, path, seconds=DELAY_BLOCK_SECONDS, rate=DELAY_RATE, closed_loop=closed_loop)
            for turn in range(2 * DELAY_BLOCKS)
        ]
    )
    passed, texts = True, []
    for percent in (50, 99):
        found = [percentile(block.after(DELAY_BLOCK_SECONDS / 6).latencies_ms(10), percent) for block in blocks]
        floor, measured = float(np.median(found[::2])), float(np.median(found[1::2]))
        truth = floor + DELAY_MS
        passed &= abs(measured - truth) <= max(TRUTH_SHARE * truth, TRUTH_MS)
        texts.append(f"p{percent} {truth:.3f} ms by construction, {measured:.3f} ms measured")
    return [Check("known delay", passed, "; ".join(texts))]


def known_stall(instrument: Instrument, floor_ms: float, *, closed_loop: bool = False) -> list[Check]:
    """A server that stops for a second: our p99 is that of theory. Waiting callers hardly see the second."""
    base = f"/known?delay=2&stall={STALL_MS:g}&after={STALL_AFTER_MS:g}&run="
    ours, waiting = instrument.measure(
        [
            _job(instrument, base + "1", seconds=STALL_BLOCK_SECONDS, rate=STALL_RATE, closed_loop=closed_loop),
            instrument.job(base + "2", seconds=STALL_BLOCK_SECONDS, callers=8),
        ]
    )
    schedule = instrument.job(base, seconds=STALL_BLOCK_SECONDS, rate=STALL_RATE).arrivals() / 1e6
    theory = percentile(stalled(schedule, 2 + floor_ms), 99)
    found, omitted = (percentile(block.latencies_ms(10), 99) for block in (ours, waiting))
    passed = abs(found - theory) <= STALL_SHARE * theory
    text = (
        f"p99 by theory {theory:.0f} ms; measured {found:.0f} ms, {found / theory - 1:+.1%}; "
        f"eight waiting callers would have reported {omitted:.1f} ms"
    )
    return [Check("known stall", passed, text)]


def stalled(arrivals_ms: NDArray[np.float64], delay_ms: float) -> NDArray[np.float64]:
    """Latencies by theory: who comes in the stall waits for its end. The stall counts from the first arrival."""
    begin = arrivals_ms[0] + STALL_AFTER_MS
    waits = np.where((arrivals_ms >= begin) & (arrivals_ms < begin + STALL_MS), begin + STALL_MS - arrivals_ms, 0.0)
    return waits + delay_ms


def same_twice(instrument: Instrument, tell: Tell, runs: int = AA_RUNS) -> list[Check]:
    """A against A: the comparison calls a difference in at most 5 of 40 runs."""
    different = _differences(instrument, tell, runs, factor=1.0, name="A against A")
    allowed = math.floor(AA_MOST_DIFFERENT * runs / AA_RUNS)
    text = f"{different} of {runs} runs call a difference; at most {allowed}"
    return [Check("A against A", different <= allowed, text)]


def five_percent(instrument: Instrument, tell: Tell, runs: int = FIVE_RUNS) -> list[Check]:
    """A against A + 5 %: found in at least 90 %."""
    found = _differences(instrument, tell, runs, factor=1.05, name="A against A + 5 %")
    text = f"found in {found} of {runs} runs of {PAIRS} pairs; at least {FIVE_LEAST_FOUND:.0%}"
    return [Check("A against A + 5 %", found >= FIVE_LEAST_FOUND * runs, text)]


def _differences(instrument: Instrument, tell: Tell, runs: int, *, factor: float, name: str) -> int:
    paths = {leg: f"/known?delay=5&jitter=0.5&factor={by:g}&run={leg}" for leg, by in (("a", 1.0), ("b", factor))}
    different = 0
    pairs = count()
    for run in range(runs):
        offset = next(pairs) * PAIRS
        turns = abba(PAIRS, ["a", "b"], Random(SEED + run))  # noqa: S311 - an order is no secret
        blocks = instrument.measure(
            [
                instrument.job(paths[turn.leg], seconds=PAIR_SECONDS, rate=PAIR_RATE, pair=offset + turn.pair)
                for turn in turns
            ]
        )
        medians: dict[tuple[str, int], float] = {
            (turn.leg, turn.pair): _median(block) for turn, block in zip(turns, blocks, strict=True)
        }
        ratio = paired(*([medians[leg, pair] for pair in range(PAIRS)] for leg in "ab"))
        different += judge(ratio, seed=run).kind.is_difference
        tell(f"{name}: run {run + 1} of {runs}, {different} different")
    return different


def _median(block: Block) -> float:
    return percentile(block.after(PAIR_SECONDS / 10).latencies_ms(10), 50)


def _job(instrument: Instrument, path: str, *, seconds: float, rate: float, closed_loop: bool) -> Job:
    """Open loop, unless the schedule is broken on purpose."""
    return (
        instrument.job(path, seconds=seconds, callers=8)
        if closed_loop
        else instrument.job(path, seconds=seconds, rate=rate)
    )
