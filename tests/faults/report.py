"""The table of R1 to R23, on a terminal and on one page."""

from __future__ import annotations

from html import escape
from typing import Any

Record = dict[str, Any]

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; color: #1c2330; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #d9dee7; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.ok { color: #0a6b3d; } .no { color: #b3261e; font-weight: 600; }
.open { color: #8a5a00; }
small { color: #5b6576; } ul { margin: 0; padding-left: 1rem; }
@media (prefers-color-scheme: dark) { body { background: #12161d; color: #e4e8ef; } th, td { border-color: #2c3441; }
.ok { color: #5fd39a; } .no { color: #ff8a80; } small { color: #9aa5b8; } }
"""

#: By whether a figure holds; None: other programs took the machine, and it was not judged.
_MARKS = {True: "", False: "NOT ", None: "(not judged) "}
_CLASSES = {True: "ok", False: "no", None: "open"}


def unjudged(records: list[Record]) -> int:
    return sum(check["holds"] is None for record in records for check in record["checks"])


def ordered(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (int(record["number"][1:]), record["variant"]))


def table(records: list[Record]) -> str:
    lines = [
        f"{'':4} {'fault':46} {'variant':22} {'ok':>7} {'p50/p99 before':>15} {'during':>13} {'wrong':>5}  figures"
    ]
    for record in ordered(records):
        windows = record["windows"]
        during = windows.get("during") or windows.get("after") or {}
        success = f"{100 * during['success']:.2f}%" if during else "-"
        figures = "; ".join(f"{_MARKS[c['holds']]}{c['what']}: {c['seen']}" for c in record["checks"][:-1])
        lines.append(
            f"{record['number']:4} {record['fault']:46} {record['variant']:22} {success:>7} "
            f"{_times(windows.get('before')):>15} {_times(during):>13} {record['checks'][-1]['seen']:>5}  "
            f"{'holds' if record['passed'] else 'BROKEN'}: {figures}"
        )
    return "\n".join(lines)


def _times(window: dict[str, Any] | None) -> str:
    return f"{window['p50_ms']:.0f}/{window['p99_ms']:.0f} ms" if window else "-"


def page(records: list[Record], *, rounds: int) -> str:
    broken = [record for record in records if not record["passed"]]
    faults = len({record["number"] for record in records})
    wrong = sum(record["checks"][-1]["seen"] for record in records)
    summary = (
        f"{faults} faults, {len(records)} runs in {rounds} round{'s' if rounds > 1 else ''}; "
        f"{len(broken)} broken; {wrong} wrong answers; "
        f"{unjudged(records)} latencies not judged, since other programs kept the machine busy"
    )
    heads = ("", "fault", "over", "success", "p50 / p99 before", "during", "after", "memory, files, tasks", "figures")
    rows = "\n".join(map(_row, ordered(records)))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Duet: faults</title><style>{_STYLE}</style>'
        f"<h1>What breaks, and what holds</h1><p>{summary}.</p><table><thead><tr>"
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead><tbody>{rows}</tbody></table></html>"
    )


def _row(record: Record) -> str:
    windows = record["windows"]
    success = "<br>".join(f"{name} {100 * window['success']:.2f} %" for name, window in windows.items())
    gauges = "<br>".join(
        f"{name}: {entry['memory'] >> 20} MiB, {entry['descriptors']}, {entry['tasks']}"
        for name, entry in record["gauges"].items()
    )
    figures = "".join(
        f'<li class="{_CLASSES[check["holds"]]}">{_MARKS[check["holds"]]}{escape(check["what"])}: '
        f"<small>{escape(str(check['seen']))}</small></li>"
        for check in record["checks"]
    )
    verdict = "ok" if record["passed"] else "no"
    times = "".join(f'<td class="n">{_times(windows.get(name))}</td>' for name in ("before", "during", "after"))
    return (
        f'<tr><td class="{verdict}">{record["number"]}</td><td>{escape(record["fault"])}</td>'
        f"<td>{escape(record['variant'])}</td><td>{success}</td>{times}<td><small>{gauges}</small></td>"
        f"<td><ul>{figures}</ul></td></tr>"
    )
