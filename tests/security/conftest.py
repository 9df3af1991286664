"""The door that most attacks are tried on, and the table of what was tried: a line for each control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.conftest import gateway_with
from tests.security.door import Door, open_door

__all__ = ["gateway_with"]


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(tmp_path_factory.mktemp("door")) as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Control, cases, failures, figure. A test tells of many cases by ``record_property("cases", n)``."""
    lines: dict[str, list[Any]] = defaultdict(lambda: [0, 0, []])
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            path = getattr(report, "fspath", "")
            if "tests/security/" not in path or (report.when != "call" and outcome == "passed"):
                continue
            properties = dict(report.user_properties)
            line = lines[path.rpartition("/test_")[2].removesuffix(".py").replace("_", " ")]
            line[0] += properties.get("cases", 1)
            line[1] += outcome != "passed"
            if "figure" in properties:
                line[2].append(properties["figure"])
    if not lines:
        return
    terminalreporter.section("attacks")
    terminalreporter.line(f"{'control':<24}{'cases':>9}{'failures':>10}  figure")
    for control, (cases, failures, figures) in sorted(lines.items()):
        terminalreporter.line(f"{control:<24}{cases:>9}{failures:>10}  {'; '.join(dict.fromkeys(figures))}")
