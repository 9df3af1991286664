"""What only all blocks together tell: was the generator in time, were the servers steady?

The servers by the warm-up's windows; where the machine wanders more than these may, by the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from loadtest.analysis.percentiles import percentile
from loadtest.analysis.ratios import paired
from loadtest.analysis.validity import FEWEST_FOR_DRIFT, Violation, drift, lateness
from loadtest.blocks import Finished
from loadtest.plan import Plan
from models.spec import FRAMEWORKS

Blocks = Mapping[tuple[int, str], Finished]


def late(legs: Mapping[str, Sequence[Finished]], timeout_seconds: float) -> Iterator[Violation]:
    """Violations of V1, by the legs' titles."""
    for title, blocks in legs.items():
        lags = np.concatenate([one.block.lags_ms for one in blocks])
        latencies = np.concatenate([one.block.latencies_ms(timeout_seconds) for one in blocks])
        yield from lateness(title, percentile(lags, 99), percentile(latencies, 50))


def unsteady(fronts: Mapping[str, Blocks], warm_ups: Mapping[str, str], plan: Plan) -> Iterator[Violation]:
    """Violations of V3. ``warm_ups`` tells by leg what was unsteady then: too few pairs leave that standing."""
    if plan.pairs < FEWEST_FOR_DRIFT:
        yield from (Violation("V3", title, text) for title, text in warm_ups.items())
        return
    for front, blocks in fronts.items():
        for view in ("gateway", "direct") if plan.direct else ("gateway",):
            logs = paired(*(medians(blocks, f"{view}/{variant}", plan) for variant in reversed(FRAMEWORKS))).logs
            if (change := drift(logs)) != 1:
                first, last = math.exp(logs[0]), math.exp(logs[-1])
                text = (
                    f"PyTorch over TensorFlow changes by {change - 1:+.0%} from pair to pair, {first:.2f} to {last:.2f}"
                )
                yield Violation("V3", f"{front} {view}", text)


def medians(blocks: Blocks, leg: str, plan: Plan) -> list[float]:
    return [percentile(blocks[pair, leg].block.latencies_ms(plan.timeout_seconds), 50) for pair in range(plan.pairs)]
