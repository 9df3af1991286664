"""`serving up`, as a story: check, train, start, wait, show, stay, stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from models.catalog import select
from models.spec import Example, ModelSpec, UnknownNameError
from serving import display
from serving.failures import Failure
from serving.firstcalls import Answer, call, request_body
from serving.options import Options
from serving.plan import VARIANTS, Plan, make_plan, reachable
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
    specs = _select(options.models)
    java, binary = find_java(os.environ), find_binary(options.tf_serving_binary)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    record = RunRecord(options.run_dir / "run.json")
    for name in record.claim():
        console.print(f"Ended {name}, left by an earlier run.", soft_wrap=True)
    left: list[int] = []
    try:
        check_free(options.listeners())
        ensure_trained(options.artifacts, specs, may_train=options.train, console=console, stops=stops)
        plan = make_plan(options, specs, java=java, binary=binary)
        supervisor = Supervisor(plan.stages, record=record, report=lambda line: console.print(line, soft_wrap=True))
        try:
            _serve(options, specs, plan, supervisor, console, stops, begun)
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
    specs: Sequence[ModelSpec],
    plan: Plan,
    supervisor: Supervisor,
    console: Console,
    stops: Stops,
    begun: float,
) -> None:
    supervisor.start()
    examples = {spec.name: spec.example() for spec in specs}  # a second's work, while the servers start
    _wait_until_ready(options, plan, supervisor, console, stops)
    bodies = {spec.name: request_body(spec.inputs, examples[spec.name].inputs) for spec in specs}
    answers = [
        call(plan.client_host, plan.http_port, spec.name, variant, bodies[spec.name])
        for spec in specs
        for variant in VARIANTS
    ]
    console.print(display.answers_table(answers, _shown(answers, specs, examples)))
    console.print(f"Ready after {time.monotonic() - begun:.1f} s.")
    _show_addresses(options, bodies, console)
    while not stops.asked:
        supervisor.restart_dead()
        stops.pause(POLL_SECONDS)


def _select(names: Sequence[str]) -> list[ModelSpec]:
    try:
        return select(names)
    except UnknownNameError as error:
        raise Failure(f"--models: {error}") from None


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


def _shown(
    answers: Sequence[Answer], specs: Sequence[ModelSpec], examples: Mapping[str, Example]
) -> dict[str, tuple[str, str]]:
    """Answer and truth for people: the most likely class of a classifier, the number of a regression."""
    classifies = {spec.name: spec.classifies for spec in specs}
    shown = {}
    for answer in answers:
        given = answer.output.index(max(answer.output)) if classifies[answer.model] else answer.output[0]
        shown[f"{answer.model}@{answer.variant}"] = (f"{given:.4g}", f"{examples[answer.model].answer:.4g}")
    return shown


def _show_addresses(options: Options, bodies: Mapping[str, object], console: Console) -> None:
    http = f"http://{_for_people(options.host)}:{options.ports['--http-port']}"
    admin = f"http://{_for_people(options.admin_host)}:{options.ports['--admin-port']}"
    name, body = min(bodies.items(), key=lambda item: len(json.dumps(item[1])))
    display.show_addresses(
        console,
        http=http,
        admin=admin,
        logs=options.run_dir / "logs",
        curls=(
            f"  curl -s {http}/v2/models/{name}",
            f"  curl -s {http}/v2/models/{name}@pytorch/infer -d '{json.dumps(body)}'",
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
