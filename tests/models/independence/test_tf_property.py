"""TensorFlow models drawn at random: none whose rows meet is concluded to keep them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from models.importing.independence.tf_graph import analyse
from tests.models.independence.tf_models import draw, save, write_drawn

QUICK, LONG = range(2, 6), range(1_000, 1_400)
#: Of the drawn models whose rows stay apart, how many the analysis must see through. It was 0.96 of 372.
USEFUL = 0.85


def concluded(seeds: range, tmp_path: Path) -> Counter[tuple[bool, str]]:
    """Pairs of the truth and the conclusion. Every tenth model is saved as exporters do, with variables."""
    found: Counter[tuple[bool, str]] = Counter()
    for seed in seeds:
        drawn = draw(seed)
        folder = tmp_path / str(seed)
        saved = save(drawn.module, drawn.specs, folder) if seed % 10 == 0 else write_drawn(drawn, folder)
        finding = analyse(saved)
        assert drawn.independent or finding.rows != "independent", (seed, drawn.blocks)
        assert not drawn.independent or finding.rows != "dependent", (seed, drawn.blocks, finding.reason)
        found[drawn.independent, finding.rows] += 1
    return found


def test_a_few_drawn_models_are_never_concluded_wrongly(tmp_path: Path) -> None:
    assert sum(concluded(QUICK, tmp_path).values()) == len(QUICK)


@pytest.mark.full
def test_no_drawn_model_is_concluded_wrongly(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    found = concluded(LONG, tmp_path)
    apart = {rows: count for (independent, rows), count in found.items() if independent}
    record_property("concluded", str(dict(found)))
    assert sum(count for (independent, _), count in found.items() if not independent) > 100
    assert apart["independent"] >= USEFUL * sum(apart.values())
