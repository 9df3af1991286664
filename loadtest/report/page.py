"""The page. It asks no network for anything, has no script, and says the same whenever the results are the same."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from loadtest.analysis.validity import RULES
from loadtest.fronts import FRONTS
from loadtest.report import figures
from loadtest.report.figures import TITLES
from loadtest.report.style import CSS
from models.spec import FRAMEWORKS

Result = Mapping[str, Any]
VIEWS = {"gateway": "through the gateway", "direct": "directly"}


def render(results: Sequence[Result]) -> str:
    names = ", ".join(result["model"] for result in results)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>TensorFlow and PyTorch compared: {escape(names)}</title><style>{CSS}</style></head>\n<body>\n"
        "<h1>Which framework serves it better, and by how much?</h1>"
        f"{answers(results)}{how()}" + "\n".join(map(section, results)) + "\n</body></html>\n"
    )


def answers(results: Iterable[Result]) -> str:
    """First of all: a sentence a model."""
    return "".join(
        f'<p class="answer{"" if result["validity"]["holds"] else " bad"}"><b>{escape(result["model"])}</b> '
        f"{escape(result['sentence'], quote=False)}</p>"
        for result in results
    )


def how() -> str:
    return (
        '<p class="soft">Ratios are PyTorch over TensorFlow, below 1 is quicker. Load comes in open loop at Poisson '
        "times that are the same for both of a pair, and latency counts from the time at which a request was meant to "
        "be sent; what failed counts as its time-out. The blocks run in the order ABBA BAAB. Intervals are over pairs "
        "of blocks (bootstrap, BCa), the margin that matters is 3 %, and over all cells of a model Holm’s correction "
        f"holds.</p>{key()}"
    )


def key() -> str:
    swatch = '<svg viewBox="0 0 32 10" aria-hidden="true"><line class="line {0}" x1="0" x2="32" y1="5" y2="5"/></svg>'
    return "".join(
        f'<span class="key">{swatch.format(css)}{TITLES[name]}, {VIEWS[view]}</span>'
        for view in VIEWS
        for name in FRAMEWORKS
        for css in (name if view == "gateway" else f"{name} direct",)
    )


def section(result: Result) -> str:
    return (
        f'<section id="{escape(result["model"])}"><h2>{escape(result["model"])}, version {result["version"]}</h2>'
        f"<p>{escape(result['description'])}</p>{verdicts(result)}"
        + "".join(cell(result, one) for one in result["cells"])
        + f"{sweeps(result)}{searches(result)}{cold_start(result)}"
        f"<div class='pair'><div>{validity(result)}</div><div>{calibration(result)}{parity(result)}</div></div>"
        f"{configuration(result)}{reproduce(result)}</section>"
    )


def verdicts(result: Result) -> str:
    if not result["verdicts"]:
        return '<p class="problem">This run is invalid: no verdict, and no ratio, is given.</p>'
    head = row("th", ["front", "metric", "ratio", "95 % interval", "Student’s t", "pairs", "verdict"])
    body = "".join(
        row(
            "td",
            [
                escape(figures.SHORT[one["front"]]),
                metric(one["metric"]),
                f"{one['ratio']:.3f}",
                span(one["interval"]),
                span(one["student"]),
                str(one["pairs"]),
                f"<b>{escape(one['verdict'])}</b>"
                + (f", about {one['more_pairs']} more pairs needed" if one["more_pairs"] else ""),
            ],
        )
        for one in result["verdicts"]
    )
    return f'<div class="pair wide"><div>{table(head, body)}</div><div>{figures.forest_of(result)}</div></div>'


def metric(name: str) -> str:
    return "largest rate" if name == "rate" else name


def span(interval: Sequence[float | None], digits: int = 3) -> str:
    low, high = interval
    return "–" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def cell(result: Result, found: Mapping[str, Any]) -> str:
    title = FRONTS[found["front"]].title
    return (
        f"<h3>{escape(title)}, {result['rate']:g} requests/s</h3>"
        f'<div class="pair"><div>{figures.tail_of(found)}</div><div>{latencies(found)}{overhead(found)}'
        f"{figures.ledger_of(found)}</div></div>{figures.time_series(found)}"
    )


def latencies(found: Mapping[str, Any]) -> str:
    told = {name for leg in found["legs"].values() for name in leg["percentiles_ms"]}
    names = ["p50", "p95", "p99", *(["p99.9"] if "p99.9" in told else [])]
    head = row("th", ["milliseconds", *names, "mean", "requests", "failed"])
    body = "".join(
        row(
            "td",
            [
                leg_title(leg),
                *(
                    f"{of_leg['percentiles_ms'][name]:.2f}" if name in of_leg["percentiles_ms"] else few
                    for name in names
                ),
                f"{of_leg['mean_ms']:.2f}",
                f"{of_leg['requests']:,}",
                f"{of_leg['failed']:,}",
            ],
        )
        for leg, of_leg in sorted(found["legs"].items(), key=lambda item: order(item[0]))
        for few in ('<span class="soft" title="too few requests for it">n too small</span>',)
    )
    return table(head, body)


def order(leg: str) -> tuple[int, int]:
    view, variant = leg.split("/")
    return list(VIEWS).index(view), FRAMEWORKS.index(variant)


def leg_title(leg: str) -> str:
    view, variant = leg.split("/")
    return f"{TITLES[variant]}, {VIEWS[view]}"


def overhead(found: Mapping[str, Any]) -> str:
    if not found["overhead"]:
        return ""
    head = row("th", ["the gateway adds", "milliseconds", "95 % interval"])
    body = "".join(
        row("td", [f"{TITLES[one['variant']]}, {one['metric']}", f"{one['ms']:.2f}", span(one["interval"], 2)])
        for one in found["overhead"]
    )
    return table(head, body)


def sweeps(result: Result) -> str:
    sweep = result.get("sweep")
    if not sweep:
        return ""
    off = [one for kind in ("callers", "rows", "bytes") for one in sweep[kind] if not one["little_holds"]]
    law = (
        f"{len(off)} of the points break Little’s law by more than 5 % and are drawn all the same."
        if off
        else "Every point agrees with Little’s law within 5 %."
    )
    return (
        f"<h3>Sweeps over {escape(FRONTS[sweep['front']].title)}, waiting callers</h3>"
        f'<div class="three">{figures.sweep_of(sweep)}</div><p class="soft">{law}</p>'
    )


def searches(result: Result) -> str:
    parts = []
    for front, found in result.get("search", {}).items():
        percent, limit = found["slo"]
        head = row("th", ["", "requests/s", "searches", "per million predictions"])
        body = "".join(
            row("td", [leg_title(leg), ", ".join(f"{one:.0f}" for one in rates), str(len(rates)), cost(found, leg)])
            for leg, rates in found["found"].items()
        )
        title = f"Largest rate with p{percent:g} within {limit:g} ms, {escape(FRONTS[front].title)}"
        parts.append(f"<h3>{title}</h3>{table(head, body)}")
    return "".join(parts)


def cost(found: Mapping[str, Any], leg: str) -> str:
    costs = found["cost_per_million"]
    return f"{costs[leg]:.4g}" if leg in costs else "–"


def cold_start(result: Result) -> str:
    found = result.get("cold_start")
    if not found:
        return ""
    names = found["milestones"]
    head = row("th", ["seconds, median and slowest", *(escape(name) for name in names)])
    body = "".join(
        row("td", [TITLES[variant], *(f"{one[name]['median']:.2f} · {one[name]['max']:.2f}" for name in names)])
        for variant, one in found["variants"].items()
    )
    return f"<h3>Cold start, {found['restarts']} restarts each</h3>{table(head, body)}"


def validity(result: Result) -> str:
    found = result["validity"]
    broken = {rule for rule, _, _ in found["broken"]}
    allowed = {rule for rule, _, _ in found["allowed"]}

    def state(rule: str) -> str:
        if rule in broken:
            return '<span class="bad">broken</span>'
        reason = escape(found["reasons"].get(rule, ""))
        if rule in allowed:
            return f'<span class="bad">broken</span>, left aside: {reason}'
        return '<span class="good">holds</span>'

    body = "".join(row("td", [rule, escape(text), state(rule)]) for rule, text in RULES.items())
    worst: dict[str, tuple[str, str, int]] = {}
    for rule, where, text in (*found["broken"], *found["allowed"]):
        first = worst.get(rule)
        worst[rule] = (where, text, 1) if first is None else (first[0], first[1], first[2] + 1)
    lines = "".join(
        f'<p class="problem">{rule} {escape(where)}: {escape(text)}'
        f"{f' (and {count - 1} more)' if count > 1 else ''}</p>"
        for rule, (where, text, count) in worst.items()
    )
    return f"<h3>Is it valid?</h3>{table('', body, 'rules')}{lines}{notes(found)}"


def notes(found: Mapping[str, Any]) -> str:
    """What a reader must know though no rule is broken."""
    lines = [f"Repeated, since the machine spoilt it: {one}." for one in found.get("repeated", [])]
    lines += [f"Late by itself, and counted with its leg's other blocks: {one}." for one in found.get("late", [])]
    if unsteady := found.get("unsteady", []):
        lines.append(
            f"{len(unsteady)} warm-ups had windows more than 5 % apart ({unsteady[0]}), so that V3 was judged by the "
            "pairs: their ratio must not drift from the first to the last."
        )
    return "".join(f'<p class="soft">{escape(line)}</p>' for line in lines)


def calibration(result: Result) -> str:
    found = result["calibration"]
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td class="wrap"><span class="{"good" if passed else "bad"}">'
        f"{'passed' if passed else 'failed'}</span>: {escape(text)}</td></tr>"
        for name, passed, text in found["checks"]
    )
    generator = result["generator"]
    return (
        f"<h3>Is the instrument right?</h3>{table('', lines)}"
        f'<p class="soft">Calibrated {day(found["at"])} on {escape(found["machine"])}; the generator runs with '
        f"priority “{escape(generator['priority'])}” in {generator['workers']} process(es).</p>"
    )


def parity(result: Result) -> str:
    loads = [one for one in result["parity"] if one["when"].startswith("under load")]
    lines = []
    for one in result["parity"]:
        if one["when"] == "files":
            lines.append(("weights in both files", f"<code>{escape(one['fingerprint'][:23])}…</code>"))
        elif not one["when"].startswith("under load"):
            top1 = "" if one["top1"] is None else f", the same class in {one['top1']:.2%}"
            lines.append(
                (f"{one['when']} the load", f"{one['rows']} rows, {one['of_tolerance']:.2g} of tolerance{top1}")
            )
    if loads:
        worst = max(one["of_tolerance"] for one in loads)
        lines.append(("under load", f"{sum(one['rows'] for one in loads)} answers, {worst:.2g} of tolerance"))
    return f"<h3>Do both compute the same?</h3>{table('', ''.join(row('td', line) for line in lines))}"


def configuration(result: Result) -> str:
    head = row("th", ["", *TITLES.values(), ""])
    body = "".join(
        row(
            "td",
            [
                escape(one["key"]),
                *(escape(value) for value in one["values"]),
                ("differs by nature" if one["by_nature"] else f"<b>differs</b>: {escape(one['reason'])}")
                if one["differs"]
                else "",
            ],
        )
        for one in result["configuration"]
    )
    return f"<h3>Configuration</h3>{table(head, body, 'left')}"


def reproduce(result: Result) -> str:
    earlier = f" The run before with the same plan {result['earlier']}." if result.get("earlier") else ""
    plan = result["plan"]
    return (
        f"<h3>Again</h3><pre>{escape(result['command'])}</pre>"
        f'<p class="soft">{day(result["begun"])}, {(result["ended"] - result["begun"]) / 60:.0f} minutes, '
        f"{plan['pairs']} pairs of blocks of {plan['seconds']:g} s, seed {plan['seed']}.{earlier} Every request’s "
        "times lie in the run’s folder, a file a block and worker.</p>"
    )


def day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def table(head: str, body: str, css: str = "") -> str:
    """A narrow screen scrolls it sideways, without the page."""
    top = f"<thead>{head}</thead>" if head else ""
    return f'<div class="scroll"><table class="{css}">{top}<tbody>{body}</tbody></table></div>'


def row(kind: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"
