"""Prints what the siege's attackers have taken."""

from __future__ import annotations

from typing import Any

from tests.security.siege.figures import Row, table


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows: list[Row] = []
    for outcome in ("passed", "failed", "xfailed", "xpassed"):
        for report in terminalreporter.stats.get(outcome, []):
            rows += [value for name, value in getattr(report, "user_properties", ()) if name == "siege"]
    if rows:
        terminalreporter.section("siege: the most that one caller took")
        for line in table(rows):
            terminalreporter.line(line)
