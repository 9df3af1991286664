"""What the tests of TensorFlow models whose rows meet share: shapes, cases by name, and what is asked of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.importing.independence.tf_graph import analyse
from tests.models.independence.tf_models import Specs, keeps_rows_apart, spec, write

#: The quick run takes one of so many; `full` takes all.
SHARE = 10

X = [spec(None, 8)]
SEQ = [spec(None, 5, 4)]
OPEN = [spec(None, None)]
IMG = [spec(None, 8, 8, 3)]
SQ = [spec(None, None, 4)]


class Cases:
    """Models by name. The kind: a row's answer depends on other rows, on how many there are, or is at another place."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[Specs, Callable[..., Any]]] = {}

    def together(self, name: str, specs: Specs, forward: Callable[..., Any]) -> None:
        self.models[name] = (specs, forward)

    @property
    def share(self) -> list[str]:
        return list(self.models)[::SHARE]

    def concluded(self, name: str, folder: Path) -> Any:
        specs, forward = self.models[name]
        return analyse(write(forward, specs, folder))

    def check(self, name: str, folder: Path) -> None:
        """It is not concluded that rows are apart."""
        finding = self.concluded(name, folder)
        assert finding.rows != "independent", name
        assert finding.reason, name

    def check_all(self, folder: Path) -> None:
        """Nor is it concluded that rows meet where a trial sees them apart."""
        for place, (name, (specs, forward)) in enumerate(self.models.items()):
            finding = self.concluded(name, folder / str(place))
            assert finding.rows != "independent", name
            assert finding.rows == "unknown" or not keeps_rows_apart(forward, specs), (name, finding.reason)
