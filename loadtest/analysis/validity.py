"""When a run says nothing: each rule with the figure that broke it. No verdict is given then.

The numbers V1 to V10 are those of the report. A rule is left aside only by name and with a reason (`Allowance`), and
the report prints both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest.analysis import student

MOST_LAG_MS, MOST_LAG_SHARE = 1.0, 0.05
MOST_GENERATOR_CPU = 0.80
STEADY_WINDOWS, STEADY_SHARE = 3, 0.05
DRIFT_SHARE, DRIFT_CONFIDENCE, FEWEST_FOR_DRIFT = 0.05, 0.99, 8
REPEATED_SHARE = 1 / 8
"""Of a run's blocks, at most, that are repeated because the machine spoilt them: each once."""
LEAST_ACHIEVED = 0.99
MOST_FOREIGN_CPU = 0.05
MOST_ERRORS = 0.001

RULES = {
    "V1": "the generator keeps its schedule",
    "V2": "the generator has CPU to spare",
    "V3": "the servers are steady: after the warm-up, or else from pair to pair",
    "V4": "the offered rate is achieved",
    "V5": "no request is dropped",
    "V6": "both answer the same",
    "V7": "the configuration stays as it was",
    "V8": "nothing else runs on the machine",
    "V9": "errors are rare",
    "V10": "the generator is calibrated on this machine",
}


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """What a block tells about itself. Latencies in milliseconds; CPU in cores; None is "cannot be seen from here"."""

    name: str
    requests: int
    failed: int
    dropped: int
    offered_per_second: float
    achieved_per_second: float
    lag_p99_ms: float
    p50_ms: float
    generator_cpu: float | None = None
    foreign_cpu: float | None = None
    backlog_grows: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule} {self.where}: {self.text}"


@dataclass(frozen=True, slots=True)
class Validity:
    """``broken`` ends the run as INVALID; ``allowed`` are violations of a rule that was left aside by name."""

    broken: tuple[Violation, ...]
    allowed: tuple[Violation, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.broken


def weigh(violations: Iterable[Violation], allowances: Mapping[str, str]) -> Validity:
    """``allowances`` are reasons by rule."""
    found = list(violations)
    return Validity(
        tuple(one for one in found if one.rule not in allowances),
        tuple(one for one in found if one.rule in allowances),
        dict(allowances),
    )


def lateness(where: str, lag_p99_ms: float, p50_ms: float) -> Iterator[Violation]:
    """V1, of all blocks of a leg together.

    A block alone has too few requests for a p99: of 225, three that met one pause of the machine are more than 1 %. On
    the same machine the legs' lie from 0.29 to 0.53 ms where single blocks reach 3.
    """
    limit = max(MOST_LAG_MS, MOST_LAG_SHARE * p50_ms)
    if lag_p99_ms > limit:
        yield Violation(
            "V1", where, f"1 % of requests went out {lag_p99_ms:.2f} ms late or more; at most {limit:.2f} ms"
        )


def spoilt(facts: BlockFacts) -> Iterator[Violation]:
    """What the machine did to a block, and no server: a late generator, a neighbour. A reason to repeat it."""
    yield from lateness(facts.name, facts.lag_p99_ms, facts.p50_ms)
    yield from (one for one in of_block(facts) if one.rule == "V8")


def of_block(facts: BlockFacts) -> Iterator[Violation]:
    """The rules that a block can break by itself."""

    def broken(rule: str, text: str) -> Violation:
        return Violation(rule, facts.name, text)

    if facts.generator_cpu is not None and facts.generator_cpu > MOST_GENERATOR_CPU:
        yield broken("V2", f"a generator took {facts.generator_cpu:.0%} of a core; at most {MOST_GENERATOR_CPU:.0%}")
    if facts.achieved_per_second < LEAST_ACHIEVED * facts.offered_per_second:
        rates = f"{facts.achieved_per_second:.1f} requests/s of {facts.offered_per_second:.1f} offered"
        yield broken("V4", f"{rates} were answered in time")
    if facts.dropped:
        yield broken("V5", f"{facts.dropped} requests had no place among those in flight")
    if facts.foreign_cpu is not None and facts.foreign_cpu > MOST_FOREIGN_CPU:
        yield broken("V8", f"other processes took {facts.foreign_cpu:.0%} of a core; at most {MOST_FOREIGN_CPU:.0%}")
    if facts.failed > MOST_ERRORS * facts.requests:
        yield broken("V9", f"{facts.failed} of {facts.requests} requests failed; at most {MOST_ERRORS:.1%}")


def is_steady(values: Iterable[float]) -> bool:
    """Whether the last three windows lie within 5 % of one another.

    >>> is_steady([9.0, 1.0, 1.02, 1.04])
    True
    """
    last = list(values)[-STEADY_WINDOWS:]
    return len(last) == STEADY_WINDOWS and min(last) > 0 and max(last) / min(last) <= 1 + STEADY_SHARE


def drift(logs: Sequence[float]) -> float:
    """By what factor the pairs' ratio changes from the first pair to the last; 1 where that may be chance.

    It is none where the slope's 99 % interval leaves out 0 and the change exceeds 5 %. Machines that are shared wander
    by more than the 5 % of the windows: against servers that had run for ten minutes, three windows of a second lay
    within 5 % in 8 to 50 of 100 cases, and longer windows did no better. Both legs of a pair share what the machine
    does; what a server does by itself, as one that still warms up, shows in their ratio. Raises ValueError for fewer
    than eight pairs.

    >>> drift([0.2, 0.21, 0.2, 0.19, 0.2, 0.2, 0.21, 0.19])
    1.0
    """
    if len(logs) < FEWEST_FOR_DRIFT:
        raise ValueError(f"a drift needs {FEWEST_FOR_DRIFT} pairs")
    y = np.array(logs)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    spread = float((x**2).sum())
    slope = float((x * y).sum()) / spread
    left = y - y.mean() - slope * x
    error = math.sqrt(float((left**2).sum()) / (len(y) - 2) / spread)
    change = abs(slope) * (len(y) - 1)
    chance = student.quantile(DRIFT_CONFIDENCE, len(y) - 2) * error
    return math.exp(slope * (len(y) - 1)) if abs(slope) > chance and change > math.log(1 + DRIFT_SHARE) else 1.0


def stricter_first(violations: Iterable[Violation]) -> list[Violation]:
    """By rule, in the rules' own order."""
    order = list(RULES)
    return sorted(violations, key=lambda one: (order.index(one.rule), one.where))
