"""What a comparison is to do, settled before any load is sent."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.analysis.verdicts import MARGIN
from loadtest.blocks import WARM_SHARE

BYTES_OF_SAMPLE = 48
SPARE_BYTES = 64 << 20
STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
LOAD_SHARE = 0.4
"""Of what the slower leg does with four waiting callers: loaded, and far from its end."""


@dataclass(frozen=True, slots=True)
class Preset:
    """Seconds of one block through the gateway, of one directly, and between two."""

    pairs: int
    seconds: float
    direct_seconds: float
    settle_seconds: float
    warm_seconds: float
    probe_seconds: float
    searches: int


PRESETS = {
    "brief": Preset(8, 5, 2.5, 1, 4, 5, 1),
    "quick": Preset(8, 10, 5, 2, 6, 5, 1),
    "standard": Preset(20, 30, 15, 2, 10, 20, 5),
    "full": Preset(20, 120, 60, 2, 10, 20, 8),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``rate`` 0 means: to be found; ``slo`` is (percentile, milliseconds)."""

    model: str
    version: int
    fronts: tuple[str, ...]
    preset: str
    pairs: int
    seconds: float
    direct_seconds: float
    warm_seconds: float
    settle_seconds: float = 2.0
    rate: float = 0.0
    slo: tuple[float, float] | None = None
    searches: int = 1
    probe_seconds: float = 20.0
    direct: bool = True
    workers: int = 1
    seed: int = 0
    batch: int = 1
    margin: float = MARGIN
    price_per_hour: float = 0.0
    timeout_seconds: float = 10.0
    generator_cores: tuple[int, ...] = ()
    allowed_rows: Mapping[str, str] = field(default_factory=dict)
    allowed_rules: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of what must be the same for two runs to be one, or to agree."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def legs(self) -> int:
        """Of a pair: both variants over each front and, once for all fronts, directly."""
        return 2 * (len(self.fronts) + self.direct)

    def block_seconds(self, view: str) -> float:
        return self.seconds if view == "gateway" else self.direct_seconds

    @property
    def load_seconds(self) -> float:
        """Of all blocks of all fronts, their settling included."""
        through = 2 * len(self.fronts) * self.seconds
        directly = 2 * self.direct_seconds if self.direct else 0.0
        return self.pairs * (through + directly + self.legs * self.settle_seconds)

    def bytes_needed(self, rate: float) -> int:
        """On disk, for the samples and the answers that are kept."""
        return SPARE_BYTES + math.ceil(rate * self.load_seconds * BYTES_OF_SAMPLE * 1.5)

    def least_rate(self) -> float:
        """Below this a block has not the hundred samples that its median needs."""
        return 100 / (self.seconds * (1 - WARM_SHARE))

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "fronts": list(self.fronts),
            "slo": list(self.slo) if self.slo else None,
            "generator_cores": list(self.generator_cores),
        }


def round_rate(per_second: float) -> float:
    """Down to a rate that the next run will choose too: 1, 1.5, 2, 3, 5 or 7 times a power of ten.

    >>> round_rate(356), round_rate(12.5)
    (300.0, 10.0)
    """
    power = 10 ** math.floor(math.log10(per_second))
    return max(step * power for step in STEPS if step * power <= per_second)


def parse_slo(text: str) -> tuple[float, float]:
    """
    >>> parse_slo("p99=50ms")
    (99.0, 50.0)
    """
    name, _, limit = text.partition("=")
    try:
        percent, milliseconds = float(name.removeprefix("p")), float(limit.removesuffix("ms"))
    except ValueError:
        percent = milliseconds = 0.0
    if not (name.startswith("p") and limit.endswith("ms") and 50 <= percent < 100 and milliseconds > 0):
        raise ValueError(f"must be a percentile and a limit as in p99=50ms, not {text!r}")
    return percent, milliseconds
