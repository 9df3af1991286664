"""All promises together: those of one rendering, and those that take several."""

from __future__ import annotations

from tests.helm import flows, server_promises  # noqa: F401 - imported, their promises are in the list
from tests.helm.pairs import PAIRS
from tests.helm.promises import PROMISES

__all__ = ["PAIRS", "PROMISES"]
