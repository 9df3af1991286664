from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.findings import Findings

KINDS = ("torchserve", "tfserving")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


#: `make test` runs what it runs of these as it is by default, and `make faults` both.
@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.faults)], ids=["batched", "unbatched"])
def batching(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"batching": {"enabled": request.param, "rows": "independent"}}


@pytest.fixture
def found(request: pytest.FixtureRequest) -> Callable[[str, str], Findings]:
    """Makes the test's findings; its variant is the parametrisation."""

    def make(number: str, fault: str) -> Findings:
        name = request.node.name
        variant = name.partition("[")[2].rstrip("]") if "[" in name else ""
        return Findings(number, fault, variant)

    return make
