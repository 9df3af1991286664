"""Which plot is drawn of which part of a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.report.plot import (
    WIDE,
    Series,
    chart,
    doubling,
    forest,
    linear,
    logarithmic,
    stacked,
    tail,
)
from models.spec import FRAMEWORKS

Found = Mapping[str, Any]
TITLES = {"tensorflow": "TensorFlow", "pytorch": "PyTorch"}
PARTS = ("decode", "queue", "backend", "encode")
SHORT = {"v2_rest_json": "v2 JSON", "v2_rest_binary": "v2 binary", "v2_grpc": "v2 gRPC", "tfserving_rest": "TF REST"}
SHORT |= {"tfserving_grpc": "TF gRPC", "torchserve_rest": "TorchServe REST", "torchserve_grpc": "TorchServe gRPC"}


def css(leg: str) -> str:
    view, variant = leg.split("/")
    return variant if view == "gateway" else f"{variant} direct"


def forest_of(result: Found) -> str:
    rows = [
        (f"{SHORT[one['front']]}, {one['metric']}", one["ratio"], one["interval"][0], one["interval"][1])
        for one in result["verdicts"]
        if None not in one["interval"]
    ]
    title = "Ratio of PyTorch over TensorFlow with its interval, by front and metric; the margin is shaded"
    return forest(rows, margin=result["plan"]["margin"], title=title) if rows else ""


def tail_of(found: Found) -> str:
    curves = {leg: of_leg["curve"] for leg, of_leg in found["legs"].items()}
    least = min(points[-1][0] for points in curves.values())
    values = [milliseconds for points in curves.values() for _, milliseconds in points]
    series = [
        Series(css(leg), [(-math.log10(share), milliseconds) for share, milliseconds in points])
        for leg, points in curves.items()
    ]
    axis = tail("share of requests that are quicker", least)
    return chart(series, axis, logarithmic("milliseconds", values), title="Latency by percentile, log tail")


def time_series(found: Found) -> str:
    """Each second's median, with the blocks as stripes, in the order in which they ran."""
    begun = min(block["at"] for block in found["blocks"])
    points: dict[str, list[tuple[float, float]]] = {}
    spans = []
    for block in found["blocks"]:
        start = block["at"] - begun
        spans.append((css(block["leg"]), start, start + block["seconds"]))
        points.setdefault(block["leg"], []).extend((start + second, p50) for second, p50, _ in block["series"])
    ends = [end for _, _, end in spans]
    x = linear("seconds since the first block", ends, rounded=False)
    y = logarithmic("median of a second, ms", [value for of_leg in points.values() for _, value in of_leg])
    series = [Series(css(leg), of_leg, dots=True) for leg, of_leg in points.items()]
    drawn = chart(series, x, y, title="Latency over time, by block", bands=spans, width=WIDE)
    return f'<div class="series">{drawn}</div>'


def ledger_of(found: Found) -> str:
    """Where a request's time goes in the gateway, by its own account of sampled requests."""
    rows = {}
    for variant in FRAMEWORKS:
        parts = found["ledger"].get(variant, {})
        if not parts:
            continue
        known = {part: parts[part] for part in PARTS if part in parts}
        rest = parts.get("total", 0.0) - sum(known.values())
        rows[TITLES[variant]] = {**known, "rest of the front": max(0.0, rest)}
    if not rows:
        return ""
    return "<h3>Where the time goes in the gateway</h3>" + stacked(rows, title="Median time of each part, by variant")


def sweep_of(sweep: Found) -> str:
    charts = [
        _sweep(sweep["callers"], "callers", "callers", "requests/s", lambda one: one["per_second"]),
        _sweep(sweep["rows"], "rows", "rows of a request", "rows/s", lambda one: one["per_second"] * one["rows"]),
        _sweep(
            sweep["bytes"], "bytes", "bytes of a request", "MB/s", lambda one: one["per_second"] * one["bytes"] / 1e6
        ),
    ]
    return "".join(f"<div>{one}</div>" for one in charts if one)


def _sweep(points: Sequence[Found], name: str, x_title: str, y_title: str, value: Any) -> str:
    if len({one[name] for one in points}) < 2:
        return ""
    series = [
        Series(variant, [(one[name], value(one)) for one in points if one["variant"] == variant])
        for variant in FRAMEWORKS
    ]
    places = [one[name] for one in points]
    x = logarithmic(x_title, places) if name == "bytes" else doubling(x_title, places)
    return chart(series, x, linear(y_title, [value(one) for one in points]), title=f"{y_title} by {x_title}")
