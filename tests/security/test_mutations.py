"""Every entry of the mutation suites still names its place: a control that moved would go untested without a word."""

from __future__ import annotations

from pathlib import Path

from tests.helm import mutations as chart
from tests.helm.chart import CHART
from tests.security.mutations import MUTATIONS, ROOT


def test_each_security_mutation_changes_one_place_and_names_its_tests() -> None:
    lost = [m.control for m in MUTATIONS if (ROOT / m.file).read_text().count(m.old) != 1 or m.old == m.new]
    assert not lost, f"their text is not in its file exactly once: {lost}"
    nowhere = [m.control for m in MUTATIONS if not (ROOT / "tests" / "security" / m.tests).is_file()]
    assert not nowhere, f"their file of tests does not exist: {nowhere}"


def test_each_mutation_of_the_chart_finds_its_place() -> None:
    templates = Path(CHART) / "templates"
    lost = [m.promise for m in chart.MUTATIONS if m.old not in (templates / m.file).read_text()]
    assert not lost, f"their text is not in its template: {lost}"
