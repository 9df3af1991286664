from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.calibration.instrument import Instrument, instrument


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Instrument]:
    """The server whose every answer takes a known time, and the real generator before it."""
    folder = tmp_path / "known"
    folder.mkdir()
    with instrument(folder) as started:
        yield started
