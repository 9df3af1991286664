"""What PromQL asks for: names of metrics and of labels. No full parser: it knows the forms that the chart uses."""

from __future__ import annotations

import json
import re

from tests.helm.chart import Rendering

_SELECTOR = re.compile(r"\b([a-z_:][a-z0-9_:]*)\{([^}]*)\}")
_BARE = re.compile(r"\b([a-z_:][a-z0-9_:]*)\b(?!\s*[({=!~])")
_WORDS = {"by", "and", "or", "unless", "on", "ignoring", "bool", "without", "group_left", "group_right"}
_LABEL = re.compile(r"\b(\w+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def of_rules(rendering: Rendering) -> list[str]:
    groups = [group for one in rendering.all("PrometheusRule") for group in one["spec"]["groups"]]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def of_dashboard(rendering: Rendering) -> list[str]:
    [one] = [one for one in rendering.all("ConfigMap") if "duet.json" in one["data"]]
    dashboard = json.loads(one["data"]["duet.json"])
    asked = [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    names = [re.fullmatch(r"label_values\((\w+), (\w+)\)", query) for query in asked]
    found = [f'{name[1]}{{{name[2]}=""}}' for name in names if name]
    assert len(found) == len(asked)
    return found + [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def metrics_of(query: str) -> set[str]:
    """Every word that is no function, label, number or keyword.

    >>> sorted(metrics_of('sum by (a) (rate(x_total{b="c"}[5m])) / y > 0.5'))
    ['x_total', 'y']
    """
    found = {metric for metric, _ in _SELECTOR.findall(query)}
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", query)
    rest = re.sub(r"\b(?:by|on|group_left|group_right|without|ignoring)\s*\([^)]*\)", " ", rest)
    words = {word for word in _BARE.findall(rest) if not re.fullmatch(r"[0-9.e]+", word)}
    return found | (words - _WORDS)


def labels_of(query: str, metric: str) -> set[str]:
    """The labels that the query asks of the metric: those it selects by, and those that it keeps."""
    selected = {
        label for name, inside in _SELECTOR.findall(query) if name == metric for label in _LABEL.findall(inside)
    }
    kept = {label.strip() for group in _BY.findall(query) for label in group.split(",") if label.strip()}
    return selected | kept
