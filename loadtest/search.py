"""The largest rate within an SLO, searched for with real load, each leg in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loadtest import blocks
from loadtest.analysis.arrivals import generator
from loadtest.analysis.load import cost_per_million, goodput
from loadtest.analysis.percentiles import meets_slo, needed_for_slo
from loadtest.analysis.ratios import Ratio, paired
from loadtest.analysis.search import RateSearch
from loadtest.analysis.turns import abba
from loadtest.analysis.validity import LEAST_ACHIEVED, MOST_ERRORS
from loadtest.blocks import WARM_SHARE, Finished, Leg
from loadtest.generator.job import Job
from loadtest.plan import Plan
from loadtest.progress import Progress
from models.spec import FRAMEWORKS

MakeJob = Callable[..., Job]
MOST_RATE = 20_000.0
START_SECONDS = 3.0


def search_all(plan: Plan, legs: Mapping[str, Sequence[Leg]], make_job: MakeJob, progress: Progress) -> dict[str, Any]:
    """By front: each search's result, their ratio over pairs of searches, and what a million predictions cost."""
    report: dict[str, Any] = {}
    ratios: dict[str, Ratio] = {}
    for front, of_front in legs.items():
        through = {leg.name: leg for leg in of_front if leg.view == "gateway"}
        found: dict[str, list[float]] = {name: [] for name in through}
        probes: list[dict[str, Any]] = []
        for turn in abba(plan.searches, list(through), generator(plan.seed, f"{front}/search", 0, 0)):
            found[turn.leg].append(_search(plan, through[turn.leg], turn.pair, make_job, progress, probes))
        report[front] = {
            "slo": plan.slo,
            "probes": probes,
            "found": found,
            "cost_per_million": _costs(plan, found),
        }
        tensorflow, pytorch = (found[f"gateway/{variant}"] for variant in FRAMEWORKS)
        if min(*tensorflow, *pytorch) > 0:
            ratios[front] = paired(pytorch, tensorflow)
    return {"report": report, "ratios": ratios}


def _search(
    plan: Plan, leg: Leg, number: int, make_job: MakeJob, progress: Progress, probes: list[dict[str, Any]]
) -> float:
    assert plan.slo is not None  # noqa: S101 - there is no search without
    percent, limit = plan.slo
    job = make_job(leg, pair=number, seconds=START_SECONDS, name="probe")
    alone = blocks.run(replace(job, callers=1), name=leg.name, workers=1, settle_seconds=0.0)
    search = RateSearch(start=min(MOST_RATE, 1e3 / alone.facts.p50_ms), most=MOST_RATE)
    while search.rate is not None:
        rate, count = search.rate, len(search.probes)
        seconds = max(plan.probe_seconds, needed_for_slo(2, percent) / rate / (1 - WARM_SHARE))
        progress.begin(f"searching {leg.title}: {rate:.0f} requests/s", seconds + 2)
        one = replace(make_job(leg, pair=1000 * number + count, seconds=seconds, name="probe"), rate=rate)
        finished = blocks.run(one, name=leg.name, workers=plan.workers, settle_seconds=0.5, tick=progress.tick)
        passed = holds(finished, percent, limit, plan.timeout_seconds)
        latencies = finished.block.latencies_ms(plan.timeout_seconds)
        good = goodput(latencies, finished.block.failed, limit, seconds * (1 - WARM_SHARE))
        probes.append({"leg": leg.name, "search": number, "rate": rate, "passed": passed, "goodput": good})
        search.tell(passed)
    return search.found


def holds(finished: Finished, percent: float, limit_ms: float, timeout_seconds: float) -> bool:
    """Latency with 99 % confidence, errors, the rate itself, and no growing backlog."""
    facts = finished.facts
    return (
        meets_slo(finished.block.latencies_ms(timeout_seconds), limit_ms, percent)
        and facts.failed <= MOST_ERRORS * facts.requests
        and not facts.dropped
        and facts.achieved_per_second >= LEAST_ACHIEVED * facts.offered_per_second
        and not facts.backlog_grows
    )


def _costs(plan: Plan, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    if not plan.price_per_hour:
        return {}
    middle = {name: math.exp(sum(map(math.log, rates)) / len(rates)) for name, rates in found.items() if min(rates) > 0}
    return {name: cost_per_million(plan.price_per_hour, rate, plan.batch) for name, rate in middle.items()}
