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
from loadtest.analysis.validity import Validity, Violation, of_block, stricter_first, weigh
from loadtest.blocks import Finished, Leg
from loadtest.calibration import record
from loadtest.configuration import Configuration
from loadtest.failures import LoadFailed, NotComparable
from loadtest.fronts import DIRECT, FRONTS, Front, Signature, pinned
from loadtest.generator.job import Job, write_bodies
from loadtest.payloads import PAYLOADS, requests, rows, twin
from loadtest.plan import LOAD_SHARE, SETTLE_SECONDS, Plan, round_rate
from loadtest.progress import Progress
from loadtest.runfolder import PLAN, RESULT, RunFolder
from loadtest.search import search_all
from loadtest.stack import Stack
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
        self._parity: list[dict[str, Any]] = []

    def run(self, *, resume: bool) -> dict[str, Any]:
        """The result, as it is written to result.json. Raises LoadFailed."""
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
            legs = {front: self._legs(FRONTS[front]) for front in self._plan.fronts}
            warmed = self._warm_up(legs)
            rate = self._rate(folder, warmed, calibration)
            found = {front: self._load(front, legs[front], rate) for front in self._plan.fronts}
            searched = self._search(legs)
            self._check_after(before)
        validity = weigh(stricter_first(self._violations), self._plan.allowed_rules)
        result = self._result(found, searched, rate, before, calibration, validity, begun)
        folder.write(RESULT, result)
        return result

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
        warm = len(self._plan.fronts) * self._plan.legs * (self._plan.warm_seconds + 1)
        searches = len(self._plan.fronts) * 2 * self._plan.searches if self._plan.slo else 0
        return CHECK_SECONDS + warm + self._plan.load_seconds + searches * PROBES * (self._plan.probe_seconds + 2)

    def _configuration(self) -> Configuration:
        return configuration.read(self._stack, self._plan.model, self._plan.version, self._plan.allowed_rows)

    def _calibrate(self) -> record.Calibration:
        found = record.read(self._root)
        if found is None or found.problem(time.time()):
            why = found.problem(time.time()) if found else "there is none"
            self._progress.say(f"The calibration does not count ({why}): a short one, half a minute.")
            found = record.calibrate(lambda text: self._progress.begin(f"calibrating: {text}"), full=False)
            record.write(found, self._root)
        if problem := found.problem(time.time()):
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

    def _legs(self, front: Front) -> list[Leg]:
        """Both variants through the gateway and, where it is wanted, each on its server's own wire."""
        made = self.through_gateway(front, self._asked)
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

    def job(self, front: str, leg: Leg, *, pair: int, seconds: float, name: str) -> Job:
        job = blocks.job_of(
            leg,
            bodies=self._bodies(leg),
            out=self._folder.blocks / f"{front}-{name}.npy",
            seed=self._plan.seed,
            cell=front,
            pair=pair,
            seconds=seconds,
        )
        return replace(job, timeout_seconds=self._plan.timeout_seconds, cores=self._plan.generator_cores)

    def _warm_up(self, legs: dict[str, list[Leg]]) -> dict[str, Warmed]:
        """The warm-up of the slower gateway leg also says what rate is modest. Violations of V3 are noted."""
        warmed = {}
        for front, of_front in legs.items():
            for leg in of_front:
                self._progress.begin(f"warming up {front} {leg.name}", self._plan.warm_seconds)
                job = self.job(front, leg, pair=0, seconds=self._plan.warm_seconds, name="warm-up")
                found = warm_up(
                    with_headers(job, self._token(leg)), name=f"{front} {leg.name}", tick=self._progress.tick
                )
                warmed[f"{front} {leg.name}"] = found
                if not found.steady:
                    self._violations.append(Violation("V3", f"{front} {leg.name}", found.text))
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

    def _load(self, front: str, legs: list[Leg], rate: float) -> dict[tuple[int, str], Finished]:
        by_name = {leg.name: leg for leg in legs}
        found: dict[tuple[int, str], Finished] = {}
        for number, turn in enumerate(self._turns(front, list(by_name)), 1):
            leg = by_name[turn.leg]
            finished = self._block(front, leg, turn, rate, f"block {number} of {self._plan.pairs * len(legs)}")
            found[turn.pair, turn.leg] = finished
            self._violations += of_block(finished.facts)
            self._check_sampled(leg, finished)
        return found

    def _turns(self, front: str, names: Sequence[str]) -> Iterator[Turn]:
        return iter(abba(self._plan.pairs, names, generator(self._plan.seed, f"{front}/turns", 0, 0)))

    def _block(self, front: str, leg: Leg, turn: Turn, rate: float, text: str) -> Finished:
        """One block, or what an interrupted run has of it. Once more where a server's token was renewed meanwhile."""
        seconds = self._plan.block_seconds(leg.view)
        name = f"{turn.pair:03d}-{leg.name.replace('/', '-')}"
        job = replace(self.job(front, leg, pair=turn.pair, seconds=seconds, name=name), rate=rate)
        done = self._folder.blocks / f"{front}-{name}.json"
        if earlier := blocks.restore(done, blocks.split(job, self._plan.workers)):
            self._progress.skip(seconds + SETTLE_SECONDS)
            return earlier
        self._progress.begin(f"{text}: {front} {leg.name}", seconds + SETTLE_SECONDS)
        token = self._token(leg)
        finished = self._load_once(with_headers(job, token), f"{front} pair {turn.pair + 1} {leg.name}")
        if self._token(leg) != token:
            self._progress.say("The server's token was renewed during this block: it is repeated.")
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
            settle_seconds=SETTLE_SECONDS,
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
