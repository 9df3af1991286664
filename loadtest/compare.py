"""The comparison as a story: check, warm up, load in turns, check again, judge."""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gateway.types import Tensor
from loadtest import blocks, configuration, parity, results, runfolder
from loadtest.analysis.arrivals import generator
from loadtest.analysis.turns import Turn, abba
from loadtest.analysis.validity import (
    REPEATED_SHARE,
    Validity,
    Violation,
    lateness,
    of_block,
    spoilt,
    stricter_first,
    weigh,
)
from loadtest.blocks import Finished, Leg
from loadtest.calibration import record
from loadtest.configuration import Configuration
from loadtest.failures import Invalid, LoadFailed, NotComparable
from loadtest.fronts import DIRECT, FRONTS, Front, Signature, pinned
from loadtest.generator.job import Job, write_bodies
from loadtest.payloads import PAYLOADS, requests, rows, twin
from loadtest.plan import LOAD_SHARE, Plan, round_rate
from loadtest.progress import Progress
from loadtest.runfolder import PLAN, RunFolder
from loadtest.search import search_all
from loadtest.stack import Stack
from loadtest.steadiness import late, unsteady
from loadtest.warmup import Warmed, warm_up
from models.served import Served
from models.spec import FRAMEWORKS

CHECK_SECONDS = 30.0
PROBES = 12
"""Of a search, about."""
PARITY_FRONT = FRONTS["v2_rest_binary"]


def with_headers(job: Job, headers: Mapping[str, str]) -> Job:
    return replace(job, per_body_headers=[{**own, **headers} for own in job.per_body_headers])


class Comparison:
    """One run of a plan. ``run`` raises LoadFailed; what it has done until then can be resumed."""

    def __init__(self, plan: Plan, stack: Stack, *, root: Path, artifacts: Path, console: Console) -> None:
        self._plan = plan
        self._stack = stack
        self._root = root
        self._artifacts = artifacts
        self._console = console
        self._model = twin(artifacts, plan.model)
        self.signature = Signature(plan.model, plan.version, self._model.outputs)
        asked = rows(self._model, PAYLOADS * plan.batch, plan.seed)
        self._asked = requests(self._model.inputs, asked, plan.batch)
        self._violations: list[Violation] = []
        self._unsteady: dict[str, str] = {}
        self._repeated: list[str] = []
        self._late: list[str] = []
        self._parity: list[dict[str, Any]] = []

    def run(self, *, resume: bool) -> dict[str, Any]:
        """The result, to be written where all that was asked for is in it: until then it can be resumed.

        Raises LoadFailed.
        """
        transports = {FRONTS[front].transport for front in self._plan.fronts}
        self._stack.check_answers(FRAMEWORKS, transports | {"http"}, direct=self._plan.direct)
        before = self._configuration()
        if self._plan.rate:
            self._check_rate(self._plan.rate, record.read(self._root))
        folder = runfolder.unfinished(self._root, self._plan) if resume else runfolder.create(self._root, self._plan)
        self._folder = folder
        try:
            folder.reserve(self._plan.bytes_needed(self._plan.rate or 1000))
            folder.write(PLAN, {**self._plan.as_json(), "configuration": before.fingerprint})
            return self._run(folder, before)
        except BaseException:
            folder.remove_if_empty()
            raise

    def _run(self, folder: RunFolder, before: Configuration) -> dict[str, Any]:
        begun = time.time()
        with Progress(self._console, self._total_seconds()) as self._progress:
            calibration = self._calibrate()
            self._check_parity_before()
            legs = {front: self.through_gateway(FRONTS[front], self._asked) for front in self._plan.fronts}
            every = [leg for of_front in legs.values() for leg in of_front] + self._direct_legs()
            warmed = self._warm_up(every)
            rate = self._rate(folder, warmed, calibration)
            found = self._load(every, rate)
            self._violations += unsteady(found, self._unsteady, self._plan)
            searched = self._search(legs)
            self._check_after(before)
        validity = weigh(stricter_first(self._violations), self._plan.allowed_rules)
        return self._result(found, searched, rate, before, calibration, validity, begun)

    @property
    def folder(self) -> RunFolder:
        return self._folder

    @property
    def plan(self) -> Plan:
        return self._plan

    @property
    def model(self) -> Served:
        return self._model

    def _total_seconds(self) -> float:
        warm = self._plan.legs * (self._plan.warm_seconds + 1)
        searches = len(self._plan.fronts) * 2 * self._plan.searches if self._plan.slo else 0
        return CHECK_SECONDS + warm + self._plan.load_seconds + searches * PROBES * (self._plan.probe_seconds + 2)

    def _configuration(self) -> Configuration:
        return configuration.read(self._stack, self._plan.model, self._plan.version, self._plan.allowed_rows)

    def _calibrate(self) -> record.Calibration:
        """Raises Invalid where the generator cannot be trusted on this machine: before any load, not after it."""
        found = record.read(self._root)
        if found is None or found.problem(time.time()):
            why = found.problem(time.time()) if found else "there is none"
            self._progress.say(f"The calibration does not count ({why}): a short one, half a minute.")
            found = record.calibrate(lambda text: self._progress.begin(f"calibrating: {text}"), full=False)
            record.write(found, self._root)
        if problem := found.problem(time.time()):
            if "V10" not in self._plan.allowed_rules:
                raise Invalid(f"V10 calibration: {problem}. No load was sent; try again on a quieter machine")
            self._violations.append(Violation("V10", "calibration", problem))
        return found

    def _check_parity_before(self) -> None:
        self._progress.begin("checking that both compute the same", CHECK_SECONDS)
        if not self._model.is_imported:
            root = configuration.artifacts_root(self._stack) or self._artifacts
            fingerprint = parity.check_files(self._model, self._plan.version, root)
            self._parity.append({"when": "files", "fingerprint": fingerprint})
        self._check_wire("before")
        self._wanted = parity.expected(self._stack, PARITY_FRONT, self.signature, self._asked)

    def _check_wire(self, when: str) -> None:
        found = parity.check_wire(self._stack, PARITY_FRONT, self._model, self._plan.version, when)
        self._parity.append({"when": when, "rows": found.rows, "of_tolerance": found.of_tolerance, "top1": found.top1})

    def _direct_legs(self) -> list[Leg]:
        """Each variant on its server's own wire, where that is wanted: what every front is held against."""
        made = []
        for variant in FRAMEWORKS if self._plan.direct else ():
            wire = DIRECT[self._stack.kind(variant)]
            own = tuple(wire.encode(self.signature, one) for one in self._asked)
            made.append(Leg(f"direct/{variant}", "direct", variant, wire, self._stack.server(variant), own))
            write_bodies(self._bodies(made[-1]), [call.body for call in own])
        return made

    def through_gateway(self, front: Front, asked: Sequence[tuple[Tensor, ...]]) -> list[Leg]:
        """Both variants get the same bytes: one file of bodies for both."""
        calls = [front.encode(self.signature, one) for one in asked]
        made = [
            Leg(f"gateway/{variant}", "gateway", variant, front, self._stack.gateway(front.transport),
                tuple(pinned(call, variant) for call in calls))
            for variant in FRAMEWORKS
        ]  # fmt: skip
        write_bodies(self._bodies(made[0]), [call.body for call in calls])
        return made

    def _bodies(self, leg: Leg) -> Path:
        return self._folder.payloads / f"{leg.front.name}.npz"

    def job(self, leg: Leg, *, pair: int, seconds: float, name: str) -> Job:
        """All legs of a pair get the same times and the same order of payloads."""
        job = blocks.job_of(
            leg,
            bodies=self._bodies(leg),
            out=self._folder.blocks / f"{leg.front.name}-{name}.npy",
            seed=self._plan.seed,
            cell=self._plan.fronts[0],
            pair=pair,
            seconds=seconds,
        )
        return replace(job, timeout_seconds=self._plan.timeout_seconds, cores=self._plan.generator_cores)

    def _warm_up(self, legs: Sequence[Leg]) -> dict[str, Warmed]:
        """The warm-up of the slower gateway leg also says what rate is modest. Unsteady legs are noted."""
        warmed = {}
        for leg in legs:
            self._progress.begin(f"warming up {leg.title}", self._plan.warm_seconds)
            job = self.job(leg, pair=0, seconds=self._plan.warm_seconds, name="warm-up")
            found = warm_up(with_headers(job, self._token(leg)), name=leg.title, tick=self._progress.tick)
            warmed[leg.title] = found
            if not found.steady:
                self._unsteady[leg.title] = found.text
        return warmed

    def _rate(self, folder: RunFolder, warmed: dict[str, Warmed], calibration: record.Calibration) -> float:
        """As asked, as in an earlier run of the same plan, or a modest share of what the slower leg does."""
        earlier = folder.read("rate.json") or runfolder.finished_before(self._root, self._plan)
        if self._plan.rate:
            rate = self._plan.rate
        elif earlier:
            rate = float(earlier["rate"])
        else:
            slowest = min(found.per_second for name, found in warmed.items() if " gateway/" in name)
            rate = round_rate(LOAD_SHARE * slowest)
        self._check_rate(rate, calibration)
        folder.write("rate.json", {"rate": rate})
        self._progress.say(f"Rate: {rate:g} requests/s, Poisson, {'as asked' if self._plan.rate else 'chosen'}.")
        return rate

    def _check_rate(self, rate: float, calibration: record.Calibration | None) -> None:
        """Raises LoadFailed for one that the generator cannot make, or that gives a block too few requests."""
        for front in self._plan.fronts if calibration else ():
            assert calibration is not None  # noqa: S101 - asked above
            most = calibration.most_per_second(FRONTS[front].transport) * self._plan.workers
            if rate > most:
                raise LoadFailed(
                    f"{rate:g} requests/s are more than the generator can make over {front} here ({most:.0f}); "
                    "give a lower --rate or more --workers"
                )
        if rate < self._plan.least_rate():
            raise LoadFailed(
                f"{rate:g} requests/s give a block of {self._plan.seconds:g} s too few requests for its median; "
                f"give --seconds {math.ceil(100 / rate / (1 - blocks.WARM_SHARE))} or more"
            )

    def _load(self, legs: Sequence[Leg], rate: float) -> dict[str, dict[tuple[int, str], Finished]]:
        """By front, pair and leg. A pair holds every front, and one direct block of each variant for all of them."""
        by_title = {leg.title: leg for leg in legs}
        found: dict[str, dict[tuple[int, str], Finished]] = {front: {} for front in self._plan.fronts}
        of_legs: dict[str, list[Finished]] = {title: [] for title in by_title}
        for number, turn in enumerate(self._turns(list(by_title)), 1):
            leg = by_title[turn.leg]
            finished = self._block(leg, turn, rate, f"block {number} of {self._plan.pairs * len(legs)}")
            for front in self._plan.fronts if leg.view == "direct" else (leg.front.name,):
                found[front][turn.pair, leg.name] = finished
            of_legs[leg.title].append(finished)
            facts = finished.facts
            self._violations += of_block(facts)
            self._late += [str(one) for one in lateness(facts.name, facts.lag_p99_ms, facts.p50_ms)]
            self._check_sampled(leg, finished)
        self._violations += late(of_legs, self._plan.timeout_seconds)
        return found

    def _turns(self, titles: Sequence[str]) -> Iterator[Turn]:
        return iter(abba(self._plan.pairs, titles, generator(self._plan.seed, f"{self._plan.fronts[0]}/turns", 0, 0)))

    def _block(self, leg: Leg, turn: Turn, rate: float, text: str) -> Finished:
        """One block, or what an interrupted run has of it.

        Once more where a server's token was renewed meanwhile, and where the machine spoilt it: that is known from the
        generator's lag and from others' CPU, not from what was measured.
        """
        seconds = self._plan.block_seconds(leg.view)
        name = f"{turn.pair:03d}-{leg.name.replace('/', '-')}"
        job = replace(self.job(leg, pair=turn.pair, seconds=seconds, name=name), rate=rate)
        done = self._folder.blocks / f"{leg.front.name}-{name}.json"
        if earlier := blocks.restore(done, blocks.split(job, self._plan.workers)):
            self._progress.skip(seconds + self._plan.settle_seconds)
            return earlier
        self._progress.begin(f"{text}: {leg.title}", seconds + self._plan.settle_seconds)
        token = self._token(leg)
        finished = self._load_once(with_headers(job, token), f"{leg.front.name} pair {turn.pair + 1} {leg.name}")
        if self._token(leg) != token:
            self._progress.say("The server's token was renewed during this block: it is repeated.")
            finished = self._load_once(with_headers(job, self._token(leg)), finished.facts.name)
        reasons = [str(one) for one in spoilt(finished.facts) if one.rule not in self._plan.allowed_rules]
        if reasons and len(self._repeated) < REPEATED_SHARE * self._plan.pairs * self._plan.legs:
            self._progress.say(f"{reasons[0]}. The block is repeated.")
            self._repeated.append(reasons[0])
            finished = self._load_once(with_headers(job, self._token(leg)), finished.facts.name)
        try:
            blocks.save(finished, done)
        except OSError as error:
            raise LoadFailed(f"cannot write {done}: {error.strerror}") from None
        return finished

    def _load_once(self, job: Job, name: str) -> Finished:
        return blocks.run(
            job,
            name=name,
            workers=self._plan.workers,
            settle_seconds=self._plan.settle_seconds,
            family=self._stack.family if self._stack.processes else None,
            tick=self._progress.tick,
        )

    def _token(self, leg: Leg) -> dict[str, str]:
        """Of the server itself. The gateway renews TorchServe's each half an hour, and the old one is refused then."""
        return self._stack.authorization(leg.variant) if leg.view == "direct" else {}

    def _check_sampled(self, leg: Leg, finished: Finished) -> None:
        worst, problem = parity.check_sampled(leg.front, self.signature, finished.answers, self._wanted)
        self._parity.append(
            {"when": f"under load, {finished.facts.name}", "rows": len(finished.answers), "of_tolerance": worst}
        )
        if problem:
            raise NotComparable(f"{finished.facts.name}: {problem}")

    def _search(self, legs: dict[str, list[Leg]]) -> dict[str, Any]:
        if self._plan.slo is None:
            return {}
        return search_all(self._plan, legs, self.job, self._progress)

    def _check_after(self, before: Configuration) -> None:
        self._progress.begin("checking again that both compute the same")
        self._check_wire("after")
        after = self._configuration()
        if changed := before.changes(after):
            self._violations.append(Violation("V7", "configuration", f"changed during the run: {', '.join(changed)}"))

    def _result(
        self,
        found: dict[str, dict[tuple[int, str], Finished]],
        searched: dict[str, Any],
        rate: float,
        before: Configuration,
        calibration: record.Calibration,
        validity: Validity,
        begun: float,
    ) -> dict[str, Any]:
        of_fronts = {front: results.ratios(of_front, self._plan) for front, of_front in found.items()}
        for front, ratio in searched.get("ratios", {}).items():
            of_fronts[front] = {"rate": ratio, **of_fronts[front]}
        verdicts = results.judged(of_fronts, self._plan) if validity.holds else []
        top = results.headline(verdicts)
        first = next(iter(next(iter(found.values())).values()))
        return {
            "model": self._plan.model,
            "description": self._model.description,
            "version": self._plan.version,
            "rate": rate,
            "begun": begun,
            "ended": time.time(),
            "plan": self._plan.as_json(),
            "sentence": top["sentence"] if top else "INVALID: no verdict. " + str(validity.broken[0]),
            "verdicts": verdicts,
            "cells": [results.cell(front, of_front, self._plan) for front, of_front in found.items()],
            "search": searched.get("report", {}),
            "parity": self._parity,
            "configuration": before.as_json(),
            "validity": {
                "holds": validity.holds,
                "broken": [[one.rule, one.where, one.text] for one in validity.broken],
                "allowed": [[one.rule, one.where, one.text] for one in validity.allowed],
                "reasons": dict(validity.reasons),
                "unsteady": [f"{title}: {text}" for title, text in self._unsteady.items()],
                "repeated": self._repeated,
                "late": self._late,
            },
            "calibration": {
                "machine": calibration.machine,
                "at": calibration.at,
                "full": calibration.full,
                "checks": [[one.name, one.passed, one.text] for one in calibration.checks],
                "figures": calibration.figures,
            },
            "generator": {
                "priority": first.priority,
                "workers": self._plan.workers,
                "python": platform.python_version(),
            },
            "command": " ".join(["python -m loadtest", *sys.argv[1:]]),
        }
