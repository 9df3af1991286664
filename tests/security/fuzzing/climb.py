"""A hill climber: the messages that stall longest and take most memory, by changing those that did so before.

Two populations for each target, one for each of the two. It begins at the target's seeds (as much as fits of every
single thing), then changes the best, and begins again elsewhere when nothing got worse for long. Decisions come from
the seed alone; how far a climb comes in some seconds is the machine's doing. What it found is kept as genomes, which
make the same messages anywhere.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.security.fuzzing import good
from tests.security.fuzzing.fronts import Broken, Fronts
from tests.security.fuzzing.genome import GREAT, Genome, mutated
from tests.security.fuzzing.measure import Cost, Steps, cost, slowness
from tests.security.fuzzing.targets import Target

#: Where the worst messages are kept, for `python -m tests.security.fuzzing replay`.
FOUND = Path(".duet/fuzz")
_KEPT = 8
_PATIENCE = 60
_FRESH = 0.15
_GREAT_ONES = 4

Score = Callable[[Cost], float]


@dataclass(order=True, slots=True)
class Entry:
    score: float
    genome: Genome = field(compare=False)
    cost: Cost = field(compare=False)


class Machine:
    """The fronts, the loop they run on, and what measures its steps: one in a process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.steps = Steps()
        self.fronts = Fronts(self.steps, self.loop)
        gc.freeze()  # each look collects: what was imported need not be gone through again

    def cost(self, target: Target, genome: Genome, *, closely: bool = False) -> tuple[Cost, Genome]:
        once, size, made = target.message(self.fronts, genome)
        # A parser of JSON reserves twelve times a document's size, of which it touches what it needs.
        traced = not target.name.endswith(", large")
        return cost(once, size, self.steps, self.loop, closely=closely, traced=traced), made

    def check(self, target: Target) -> None:
        """Raises Broken where the target's message without a fault does not come to its end."""
        with self.steps.watched():
            answer = self.loop.run_until_complete(target.good(self.fronts)())
        fault = good.fault(target.name, answer, self.steps.aside)
        if fault:
            raise Broken(f"{target.name}: {fault}")

    def closely(self, target: Target, genome: Genome, kind: str) -> Entry:
        """A stall as the reference machine would take: this one's pace is taken beside it."""
        found, made = self.cost(target, genome, closely=True)
        if kind == "memory":
            return Entry(found.memory_share, made, found)
        return Entry(found.seconds / max(slowness(), 1.0), made, found)


@dataclass(frozen=True, slots=True)
class Budget:
    """How far to climb: so many ``messages`` where that is given, else for ``seconds`` of time."""

    seconds: float = 0.0
    messages: int = 0


def climb(machine: Machine, target: Target, seed: int, budget: Budget) -> dict[str, Entry]:
    """The worst by ``stall`` and by ``memory``, measured closely; of a few ``messages`` by memory alone."""
    dice = random.Random(f"{seed} {target.name}")
    climbing = _Climb(machine, target, dice, looks=1 if budget.messages else 2)
    count, end = 0, time.monotonic() + budget.seconds
    while count < budget.messages if budget.messages else time.monotonic() < end or not count:
        climbing.step()
        count += 1
    return climbing.worst("memory") if budget.messages else climbing.worst("stall", "memory")


class _Climb:
    def __init__(self, machine: Machine, target: Target, dice: random.Random, *, looks: int) -> None:
        self._machine = machine
        self._target = target
        self._dice = dice
        self._best: dict[str, list[Entry]] = {"stall": [], "memory": []}
        self._champions: dict[str, list[Entry]] = {"stall": [], "memory": []}
        self._dull = 0
        self._looks = looks
        # Taken from the end: the target's own first, then great ones, then all others in any order.
        first, rest = list(target.seeds[:1]), target.seeds[1:]
        self._seeds = dice.sample(rest, len(rest))
        self._seeds += [{GREAT: at} for at in range(_GREAT_ONES, 0, -1)] + first

    def step(self) -> None:
        kind = self._dice.choice(("stall", "memory"))
        genome = self._seeds.pop() if self._seeds else self._changed(self._best[kind])
        found, made = self._machine.cost(self._target, genome)
        better = [self._enter(kind, made, found) for kind in self._best]
        self._dull = 0 if any(better) else self._dull + 1
        if self._dull > _PATIENCE:
            self._again()

    def worst(self, *kinds: str) -> dict[str, Entry]:
        """Close looks at the best of each kind: a first look may have met a busy machine."""
        self._again()
        found = {}
        for kind in kinds:
            best = sorted(self._champions[kind], reverse=True)[: self._looks]
            found[kind] = max(self._machine.closely(self._target, entry.genome, kind) for entry in best)
        return found

    def _changed(self, best: list[Entry]) -> Genome:
        if not best or self._dice.random() < _FRESH:
            return {GREAT: self._dice.randrange(1 << 16)}
        # The better, the likelier.
        at = min(int(self._dice.expovariate(0.7)), len(best) - 1)
        return mutated(best[at].genome, self._dice.choice(best).genome, self._dice)

    def _enter(self, kind: str, made: Genome, found: Cost) -> bool:
        best, score = self._best[kind], _SCORES[kind](found)
        if any(entry.genome == made for entry in best):
            return False
        best.append(Entry(score, made, found))
        best.sort(reverse=True)
        is_first = best[0].genome is made
        del best[_KEPT:]
        return is_first

    def _again(self) -> None:
        """Keeps the best, and begins elsewhere."""
        for kind, best in self._best.items():
            self._champions[kind] += best[:3]
            best.clear()
        self._dull = 0


_SCORES: dict[str, Score] = {"stall": lambda found: found.seconds, "memory": lambda found: found.memory_share}


def keep(target: str, kind: str, entry: Entry, seed: int, folder: Path = FOUND) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{target}-{kind}")
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"target": target, "kind": kind, "seed": seed, "genome": entry.genome}, indent=1))
    return path


def line(target: str, kind: str, entry: Entry, seed: int) -> str:
    found = entry.cost
    return (
        f"{target:<40}{kind:<8}{found.size / 1024:>10.1f} KiB {found.seconds * 1e3:>8.1f} ms "
        f"{found.aside_seconds * 1e3:>8.1f} ms aside {found.memory / (1 << 20):>8.1f} MiB "
        f"{found.times:>8.1f} x  seed {seed}"
    )
