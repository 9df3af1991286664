"""From blocks to what is said of them. Everything here is a function of recorded data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.analysis.percentiles import is_told, percentile
from loadtest.analysis.ratios import FEWEST_PAIRS, Interval, Ratio, bca, paired
from loadtest.analysis.verdicts import Kind, Verdict, judge_all, sentence
from loadtest.blocks import Finished
from loadtest.plan import Plan
from models.spec import FRAMEWORKS

METRICS = ("p50", "p95", "p99", "mean")
HEADLINE = "p50"
CURVE_POINTS = 160
Blocks = Mapping[tuple[int, str], Finished]
"""By pair and leg; a leg is named `view/variant`."""


def values(block: Finished, timeout_seconds: float) -> dict[str, float]:
    """Each metric of one block in milliseconds, those alone that it has enough samples for."""
    latencies = block.block.latencies_ms(timeout_seconds)
    found = {
        f"p{percent:g}": percentile(latencies, percent)
        for percent in (50.0, 95.0, 99.0)
        if is_told(len(latencies), percent)
    }
    return {**found, "mean": float(latencies.mean())}


def cell(front: str, blocks: Blocks, plan: Plan) -> dict[str, Any]:
    """Everything about one front, verdicts apart: these are given over all cells together."""
    legs = sorted({leg for _, leg in blocks})
    per_leg = {leg: [blocks[pair, leg] for pair in range(plan.pairs)] for leg in legs}
    return {
        "front": front,
        "legs": {leg: leg_summary(found, plan) for leg, found in per_leg.items()},
        "overhead": overhead(blocks, plan),
        "blocks": [block_summary(pair, leg, found, plan) for (pair, leg), found in blocks.items()],
        "ledger": {variant: ledger(found.timings for found in per_leg[f"gateway/{variant}"]) for variant in FRAMEWORKS},
    }


def ratios(blocks: Blocks, plan: Plan) -> dict[str, Ratio]:
    """PyTorch over TensorFlow through the gateway, by metric; those that each block has enough samples for."""
    tensorflow, pytorch = (
        [values(blocks[pair, f"gateway/{variant}"], plan.timeout_seconds) for pair in range(plan.pairs)]
        for variant in FRAMEWORKS
    )
    told = [metric for metric in METRICS if all(metric in one for one in (*tensorflow, *pytorch))]
    return {metric: paired([one[metric] for one in pytorch], [one[metric] for one in tensorflow]) for metric in told}


def judged(of_fronts: Mapping[str, Mapping[str, Ratio]], plan: Plan) -> list[dict[str, Any]]:
    """A verdict for each front and metric, with Holm's correction over all of them."""
    keys = [(front, metric) for front, found in of_fronts.items() for metric in found]
    verdicts = judge_all(
        [of_fronts[front][metric] for front, metric in keys],
        smaller_is_better=[metric != "rate" for _, metric in keys],
        margin=plan.margin,
        seed=plan.seed,
    )
    return [
        verdict_summary(front, metric, of_fronts[front][metric], verdict)
        for (front, metric), verdict in zip(keys, verdicts, strict=True)
    ]


def verdict_summary(front: str, metric: str, ratio: Ratio, verdict: Verdict) -> dict[str, Any]:
    check = ratio.student() if ratio.pairs > 1 else verdict.interval
    text = sentence(verdict, "PyTorch", "TensorFlow", "the largest rate" if metric == "rate" else metric)
    return {
        "front": front,
        "metric": metric,
        "verdict": verdict.kind.value,
        "ratio": verdict.ratio,
        "interval": known(verdict.interval),
        "student": known(check),
        "p_value": verdict.p_value,
        "pairs": ratio.pairs,
        "more_pairs": verdict.more_pairs,
        "pair_ratios": [float(np.exp(one)) for one in ratio.logs],
        "sentence": text,
    }


def known(interval: Interval) -> list[float | None]:
    """One pair has no interval, and JSON no infinity."""
    edges = (interval.low, interval.high)
    return list(edges) if all(0 < edge < float("inf") for edge in edges) else [None, None]


def leg_summary(found: Sequence[Finished], plan: Plan) -> dict[str, Any]:
    latencies = np.concatenate([one.block.latencies_ms(plan.timeout_seconds) for one in found])
    service = np.concatenate([one.block.service_ms for one in found])
    lags = np.concatenate([one.block.lags_ms for one in found])
    told = [percent for percent in (50.0, 95.0, 99.0, 99.9) if is_told(len(latencies), percent)]
    return {
        "requests": len(latencies),
        "failed": int(sum(one.block.failed.sum() for one in found)),
        "texts": sorted({text for one in found for text in one.texts}),
        "mean_ms": float(latencies.mean()),
        "percentiles_ms": {f"p{percent:g}": percentile(latencies, percent) for percent in told},
        "service_percentiles_ms": {f"p{percent:g}": percentile(service, percent) for percent in told},
        "lag_p99_ms": percentile(lags, 99),
        "answer_bytes": int(np.median(found[0].block.size)),
        "curve": curve(latencies),
    }


def curve(latencies: NDArray[np.float64]) -> list[list[float]]:
    """[share above, milliseconds]: even on a log scale of the tail, down to ten samples."""
    least = min(0.5, 10 / len(latencies))
    shares = np.geomspace(1.0, least, CURVE_POINTS)
    return [[float(share), percentile(latencies, 100 * (1 - share))] for share in shares]


def overhead(blocks: Blocks, plan: Plan) -> list[dict[str, Any]]:
    """Gateway less direct, in milliseconds, paired: what the way through the front door costs."""
    if not plan.direct:
        return []
    found = []
    for variant in FRAMEWORKS:
        through, directly = (
            [values(blocks[pair, f"{view}/{variant}"], plan.timeout_seconds) for pair in range(plan.pairs)]
            for view in ("gateway", "direct")
        )
        for metric in ("p50", "mean"):
            if not all(metric in one for one in (*through, *directly)):
                continue
            apart = np.array([one[metric] - other[metric] for one, other in zip(through, directly, strict=True)])
            interval = list(bca(apart, 0.95, plan.seed)) if len(apart) >= FEWEST_PAIRS else [None, None]
            found.append({"variant": variant, "metric": metric, "ms": float(apart.mean()), "interval": interval})
    return found


def block_summary(pair: int, leg: str, found: Finished, plan: Plan) -> dict[str, Any]:
    return {
        "pair": pair,
        "leg": leg,
        "at": found.at_seconds,
        "seconds": plan.block_seconds(leg.split("/")[0]),
        **asdict(found.facts),
        **values(found, plan.timeout_seconds),
        "series": series(found, plan.timeout_seconds),
    }


def series(found: Finished, timeout_seconds: float) -> list[list[float]]:
    """[seconds since the block's begin, p50, greatest] of each second."""
    block = found.block
    seconds = (block.intended - block.intended[0]) // 1_000_000_000
    latencies = block.latencies_ms(timeout_seconds)
    rows = []
    for second in np.unique(seconds):
        part = latencies[seconds == second]
        rows.append([float(second), percentile(part, 50), float(part.max())])
    return rows


_PART = re.compile(r"([\w-]+);dur=([0-9.]+)")


def ledger(timings: Iterable[Sequence[str]]) -> dict[str, float]:
    """Median milliseconds of each part of the gateway's Server-Timing, over the answers that were kept."""
    parts: dict[str, list[float]] = {}
    for text in (one for found in timings for one in found):
        for name, milliseconds in _PART.findall(text):
            parts.setdefault(name, []).append(float(milliseconds))
    return {name: float(np.median(found)) for name, found in parts.items()}


def headline(verdicts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first front's, of the largest rate where it was searched for often enough, else of the median."""
    wanted = [one for metric in ("rate", HEADLINE, "mean") for one in verdicts if one["metric"] == metric]
    return next((one for one in wanted if one["verdict"] != Kind.INSUFFICIENT), next(iter(wanted), None))


def agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether two runs of the same plan say the same: their intervals meet, and no verdict denies the other's."""
    first, second = headline(one["verdicts"]), headline(other["verdicts"])
    if first is None or second is None or None in (*first["interval"], *second["interval"]):
        return "had no interval to compare"
    opposed = {first["verdict"], second["verdict"]} == {"faster", "slower"}
    width = sum(np.log(v["interval"][1] / v["interval"][0]) / 2 for v in (first, second))
    apart = abs(np.log(first["ratio"] / second["ratio"]))
    return "disagrees" if opposed or apart > width else "agrees"
