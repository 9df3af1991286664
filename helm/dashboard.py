"""Writes the Grafana dashboard: `python helm/dashboard.py`; --check only says whether the file is up to date."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "duet" / "files" / "dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
CHOSEN = 'model=~"$model", front=~"$front"'
FAULTS = "UNAVAILABLE|INTERNAL|DATA_LOSS|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
VARIANTS = (("tensorflow", "TensorFlow"), ("pytorch", "PyTorch"))


def main() -> int:
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv:
        if TARGET.read_text() != text:
            print(f"{TARGET} is not what helm/dashboard.py makes: run `make chart-docs`", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text)
    return 0


def dashboard() -> dict[str, Any]:
    panels = [
        *row("All", overview()),
        *row("TensorFlow against PyTorch, side by side", side_by_side()),
        *row("Queue and batches", queues()),
    ]
    return {
        "uid": "duet",
        "title": "Duet",
        "tags": ["duet", "inference"],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables()},
        "panels": placed(panels),
    }


def variables() -> list[dict[str, Any]]:
    chosen = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}},
    ]
    for name in ("model", "front"):
        chosen.append(
            {
                "name": name,
                "type": "query",
                "datasource": SOURCE,
                "query": f"label_values(duet_requests_total, {name})",
                "includeAll": True,
                "allValue": ".*",
                "multi": True,
                "refresh": 2,
                "current": {"text": "All", "value": "$__all"},
            }
        )
    return chosen


def overview() -> list[dict[str, Any]]:
    by = "model, variant, front"
    return [
        graph("Requests/s", "reqps", (rate("duet_requests_total", CHOSEN, by), label(by))),
        graph(
            "Failed requests",
            "percentunit",
            (
                f"{rate('duet_requests_total', faulty(CHOSEN), by)} / {rate('duet_requests_total', CHOSEN, by)}",
                label(by),
            ),
        ),
        graph(
            "Requests in flight", "short", ('sum by (front) (duet_requests_in_flight{front=~"$front"})', "{{front}}")
        ),
        graph("Rows/s", "short", (rate("duet_rows_total", CHOSEN, "model, variant"), label("model, variant"))),
    ]


def side_by_side() -> list[dict[str, Any]]:
    panels = []
    for quantile in (0.5, 0.95, 0.99):
        for variant, name in VARIANTS:
            of = f'{CHOSEN}, variant="{variant}"'
            panels.append(
                graph(
                    f"{name}: p{round(quantile * 100)} of requests",
                    "s",
                    (percentile(quantile, "duet_request_seconds", of, "model, front"), label("model, front")),
                )
            )
    for variant, name in VARIANTS:
        of = f'model=~"$model", variant="{variant}"'
        panels.append(
            graph(
                f"{name}: the server alone",
                "s",
                *(
                    (percentile(q, "duet_backend_seconds", of, "model"), f"p{round(q * 100)} {{{{model}}}}")
                    for q in (0.5, 0.95, 0.99)
                ),
            )
        )
    for variant, name in VARIANTS:
        of = f'{CHOSEN}, variant="{variant}"'
        panels.append(
            graph(
                f"{name}: answers by code",
                "reqps",
                (rate("duet_requests_total", of, "model, code"), "{{model}} {{code}}"),
            )
        )
    return panels


def queues() -> list[dict[str, Any]]:
    of = 'model=~"$model"'
    by = "model, variant"
    return [
        graph(
            "Refused because queues are full",
            "reqps",
            (rate("duet_requests_total", f'{CHOSEN}, code="RESOURCE_EXHAUSTED"', by), label(by)),
        ),
        graph(
            "Failures of servers by what they are",
            "reqps",
            (rate("duet_server_faults_total", of, "model, variant, fault"), label("model, variant, fault")),
        ),
        graph("Wait for others to be sent with: p99", "s", (percentile(0.99, "duet_queue_seconds", of, by), label(by))),
        graph(
            "Rows of a run",
            "short",
            (f"{rate('duet_batch_rows_sum', of, by)} / {rate('duet_batch_rows_count', of, by)}", label(by)),
        ),
        graph("Rows of a run: p99", "short", (percentile(0.99, "duet_batch_rows", of, by), label(by))),
        graph(
            "Answers from the cache",
            "reqps",
            (rate("duet_cache_requests_total", of, "model, outcome"), "{{model}} {{outcome}}"),
        ),
    ]


def rate(metric: str, selection: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{selection}}}[$__rate_interval]))"


def percentile(quantile: float, metric: str, selection: str, by: str) -> str:
    return f"histogram_quantile({quantile}, {rate(f'{metric}_bucket', selection, f'{by}, le')})"


def faulty(selection: str) -> str:
    return f'{selection}, code=~"{FAULTS}"'


def label(by: str) -> str:
    return " ".join(f"{{{{{name}}}}}" for name in by.split(", "))


def graph(title: str, unit: str, *targets: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(targets)
        ],
    }


def row(title: str, panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "row", "title": title, "collapsed": False, "panels": []}, *panels]


def placed(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two in a line, and an id each."""
    x = y = 0
    for number, panel in enumerate(panels, 1):
        wide = panel["type"] == "row"
        if wide and x:
            x, y = 0, y + 8
        panel["id"] = number
        panel["gridPos"] = {"x": 0 if wide else x, "y": y, "w": 24 if wide else 12, "h": 1 if wide else 8}
        if wide:
            y += 1
        else:
            x, y = (0, y + 8) if x else (12, y)
    return panels


if __name__ == "__main__":
    sys.exit(main())
