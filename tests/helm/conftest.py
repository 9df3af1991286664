from __future__ import annotations

from typing import Any

import pytest

from tests.helm.cases import cases
from tests.helm.chart import EXAMPLES, Rendering, render


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/helm/" in item.path.as_posix():
            item.add_marker(pytest.mark.chart)


@pytest.fixture(scope="session")
def renderings() -> dict[str, Rendering]:
    """Of the defaults, of each example, and with each switch turned."""
    found = {"defaults": render()}
    found |= {name: render(path) for name, path in EXAMPLES.items()}
    found |= {name: render(values=values) for name, values in cases()}
    return found


@pytest.fixture(scope="session")
def everything_on() -> dict[str, Any]:
    monitoring: dict[str, Any] = {name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "dashboard")}
    monitoring["prometheusRule"] = {"enabled": True}
    return {"monitoring": monitoring, "parityCheck": {"enabled": True}, "loadtest": {"enabled": True}}
