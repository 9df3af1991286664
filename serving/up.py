"""`serving up`, as a story: check, train, start, wait, show, stay, stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from models.catalog import CATALOG
from models.refresh import refresh, shown
from models.served import Served, served
from models.spec import UnknownNameError
from serving import display
from serving.failures import Failure
from serving.firstcalls import Answer, call, request_body
from serving.localkey import LocalKey, bearing
from serving.options import Options
from serving.plan import Plan, make_plan, reachable
from serving.ports import check_free
from serving.readiness import Readiness
from serving.runrecord import RunRecord
from serving.stops import Interrupted, Stops
from serving.supervisor import Supervisor
from serving.tfserving import find_binary
from serving.torchserve import find_java
from serving.training import ensure_trained

POLL_SECONDS = 0.1
STOPPED, FAILED, INTERRUPTED = 0, 1, 130


def up(options: Options, console: Console) -> int:
    """Run until asked to stop. Returns the exit code: 0 after Ctrl-C, 1 on a failure, 130 if stopped while starting."""
    stops = Stops()
    with stops.listening():
        try:
            _run(options, console, stops)
        except Interrupted:
            console.print("Stopped before everything was ready.")
            return INTERRUPTED
        except Failure as failure:
            _show_failure(failure, console)
            return FAILED
    return STOPPED


def _run(options: Options, console: Console, stops: Stops) -> None:
    begun = time.monotonic()
    models = _select(options)
    java, binary = find_java(os.environ), find_binary(options.tf_serving_binary)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    record = RunRecord(options.run_dir / "run.json")
    for name in record.claim():
        console.print(f"Ended {name}, left by an earlier run.", soft_wrap=True)
    left: list[int] = []
    try:
        check_free(options.listeners())
        if options.allow_digests is None:  # with it, the copy that is served is brought up to date, see `make_plan`
            _refresh(options.artifacts, [model.name for model in models], console)
        specs = [CATALOG[model.name] for model in models if not model.is_imported]
        ensure_trained(options.artifacts, specs, may_train=options.train, console=console, stops=stops)
        plan = make_plan(options, models, java=java, binary=binary)
        supervisor = Supervisor(plan.stages, record=record, report=lambda line: console.print(line, soft_wrap=True))
        try:
            _serve(options, models, plan, supervisor, console, stops, begun)
        finally:
            console.print("Stopping the gateway, then the servers ...")
            left = supervisor.stop(hurry=stops.hurry)
    finally:
        if not left:
            record.remove()
    if left:
        raise Failure(f"processes that cannot be ended: {left}")
    console.print("Stopped. Nothing is left running.")


def _serve(
    options: Options,
    models: Sequence[Served],
    plan: Plan,
    supervisor: Supervisor,
    console: Console,
    stops: Stops,
    begun: float,
) -> None:
    supervisor.start()
    bodies = _bodies(models)  # a second's work, while the servers start
    _wait_until_ready(options, plan, supervisor, console, stops)
    answers = [
        call(plan.client_host, plan.http_port, model.name, variant, bodies[model.name], bearing(plan.key))
        for model in models
        if model.name in bodies
        for variant in model.variants
    ]
    console.print(display.answers_table([(answer, *_shown(answer)) for answer in answers]))
    console.print(f"Ready after {time.monotonic() - begun:.1f} s.")
    _show_addresses(options, models, bodies, console, plan.key)
    while not stops.asked:
        supervisor.restart_dead()
        stops.pause(POLL_SECONDS)


def _select(options: Options) -> list[Served]:
    try:
        return served(options.artifacts, options.models)
    except UnknownNameError as error:
        raise Failure(f"--models: {error}") from None


def _refresh(artifacts: Path, names: Sequence[str], console: Console) -> None:
    try:
        renewed = refresh(artifacts, names)
    except OSError as error:
        raise Failure(
            f"artifacts of an earlier version in {artifacts} cannot be packed with today's handler: {error}; make the "
            "folder writable, or give another with --artifacts DIR"
        ) from error
    if renewed:
        console.print(f"Packed again, with today's handler and facts: {', '.join(shown(renewed))}", soft_wrap=True)


def _wait_until_ready(options: Options, plan: Plan, supervisor: Supervisor, console: Console, stops: Stops) -> None:
    readiness = Readiness(plan.goals)
    end = time.monotonic() + options.timeout_seconds
    with display.Progress(console, readiness) as progress:
        while not readiness.poll():
            progress.update()
            supervisor.check_all_alive()
            if stops.asked:
                raise Interrupted
            if time.monotonic() > end:
                raise _late(options, supervisor, readiness)
            stops.pause(POLL_SECONDS)
        progress.update()


def _late(options: Options, supervisor: Supervisor, readiness: Readiness) -> Failure:
    lacks = {server: lack for server, lack in readiness.waiting_for().items() if lack}
    first = next(child for child in supervisor.children if child.name in lacks)
    waits = "; ".join(f"{server} for {lack}" for server, lack in lacks.items())
    return Failure(
        f"not ready after {options.timeout_seconds:.0f} s: still waiting at {waits}. "
        "A slow machine may need --timeout SECONDS.",
        log=first.launch.log,
        last_lines=tuple(first.last_lines()),
    )


def _bodies(models: Sequence[Served]) -> dict[str, dict[str, Any]]:
    """The first request of each model that has one: a documented model's example, or what an import has tried."""
    bodies = {}
    for model in models:
        values = model.example if model.is_imported else CATALOG[model.name].example().inputs
        if values is not None:
            bodies[model.name] = request_body(model.inputs, values)
    return bodies


def _shown(answer: Answer) -> tuple[str, str]:
    """Answer and truth for people. What a user's own model means by its numbers is not known here."""
    if answer.model not in CATALOG:
        values = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in answer.output[:3])
        return " ".join(values), "-"
    spec = CATALOG[answer.model]
    return spec.shown(answer.output), spec.shown_answer()


def _show_addresses(
    options: Options,
    models: Sequence[Served],
    bodies: Mapping[str, object],
    console: Console,
    key: LocalKey | None,
) -> None:
    shown = f' -H "Authorization: Bearer $(cat {key.file})"' if key else ""
    http = f"http://{_for_people(options.host)}:{options.ports['--http-port']}"
    admin = f"http://{_for_people(options.admin_host)}:{options.ports['--admin-port']}"
    name, body = min(bodies.items(), key=lambda item: len(json.dumps(item[1])))
    variant = next(model.variants[-1] for model in models if model.name == name)
    display.show_addresses(
        console,
        http=http,
        admin=admin,
        logs=options.run_dir / "logs",
        callers=f"those who show the key in {key.file}" if key else "everybody on this machine, without a key",
        curls=(
            f"  curl -s{shown} {http}/v2/models/{name}",
            f"  curl -s{shown} {http}/v2/models/{name}@{variant}/infer -d '{json.dumps(body)}'",
            f"  curl -s {admin}/metrics | grep {name}",
        ),
    )


def _for_people(host: str) -> str:
    host = reachable(host)
    return f"[{host}]" if ":" in host else "localhost" if host == "127.0.0.1" else host


def _show_failure(failure: Failure, console: Console) -> None:
    for line in failure.last_lines:
        console.print(f"  | {line}", soft_wrap=True, markup=False, highlight=False)
    if failure.log:
        console.print(f"  more in {failure.log}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"serving up: {failure}", style="bold red", soft_wrap=True, markup=False, highlight=False)
