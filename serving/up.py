"""`serving up`, as a story: check, train, start, wait, show, stay, stop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from models.catalog import CATALOG
from models.refresh import refresh, shown
from models.served import Served, served
from models.spec import UnknownNameError
from serving import display
from serving.failures import Failure
from serving.firstcalls import Answer, CallFailed, FirstCall, call, payload_call, tensor_call
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
SHOWN_CHARACTERS = 60
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
    calls = _first_calls(models)  # a second's work, while the servers start
    late = _wait_until_ready(options, models, plan, supervisor, console, stops)
    answers = [
        _answered(plan, model.name, variant, calls[model.name], late)
        for model in models
        if model.name in calls
        for variant in model.variants
    ]
    console.print(display.answers_table([(answer, *_shown(answer)) for answer in answers]))
    console.print(f"Ready after {time.monotonic() - begun:.1f} s.")
    _show_addresses(options, models, calls, console, plan.key)
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


def _wait_until_ready(
    options: Options,
    models: Sequence[Served],
    plan: Plan,
    supervisor: Supervisor,
    console: Console,
    stops: Stops,
) -> frozenset[str]:
    """The names of the user's own models that did not get ready in time: one of those stops none of the others.

    Raises Failure for a documented model or a server, Interrupted.
    """
    own = frozenset(model.name for model in models if model.is_imported)
    readiness = Readiness(plan.goals)
    end = time.monotonic() + options.timeout_seconds
    with display.Progress(console, readiness) as progress:
        while not readiness.poll():
            progress.update()
            supervisor.check_all_alive()
            if stops.asked:
                raise Interrupted
            if time.monotonic() > end:
                if readiness.missing() <= own:
                    break
                raise _late(options, supervisor, readiness)
            stops.pause(POLL_SECONDS)
        progress.update()
    return readiness.missing()


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


def _first_calls(models: Sequence[Served]) -> dict[str, FirstCall | CallFailed]:
    """The first request of each model that has one, or why its example is none.

    A documented model has an example; an imported one has what its import has tried.
    """
    calls: dict[str, FirstCall | CallFailed] = {}
    for model in models:
        values = model.example if model.is_imported else CATALOG[model.name].example().inputs
        try:
            if model.payload is not None:
                calls[model.name] = payload_call(model.name, model.payload.read(), model.payload.content_type)
            elif values is not None:
                calls[model.name] = tensor_call(model.name, model.inputs, values)
        except (CallFailed, OSError) as failure:
            calls[model.name] = CallFailed(str(failure))
    return calls


def _answered(plan: Plan, model: str, variant: str, request: FirstCall | CallFailed, late: frozenset[str]) -> Answer:
    """The variant's answer, or why there is none: a model that fails stops nothing else."""
    try:
        if isinstance(request, CallFailed):
            raise request
        if model in late:
            raise CallFailed("not ready in time; its server's log says why")
        return call(plan.client_host, plan.http_port, model, variant, request, bearing(plan.key))
    except CallFailed as failure:
        return Answer(model, variant, "-", [], 0.0, str(failure))


def _shown(answer: Answer) -> tuple[str, str]:
    """Answer and truth for people. What a user's own model means by its numbers is not known here."""
    if answer.failure:
        return "", "-"
    if answer.model not in CATALOG:
        values = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in answer.output[:3])
        return " ".join(values)[:SHOWN_CHARACTERS], "-"
    spec = CATALOG[answer.model]
    return spec.shown(answer.output), spec.shown_answer()


def _show_addresses(
    options: Options,
    models: Sequence[Served],
    calls: Mapping[str, FirstCall | CallFailed],
    console: Console,
    key: LocalKey | None,
) -> None:
    shown = f' -H "Authorization: Bearer $(cat {key.file})"' if key else ""
    http = f"http://{_for_people(options.host)}:{options.ports['--http-port']}"
    admin = f"http://{_for_people(options.admin_host)}:{options.ports['--admin-port']}"
    index = f"  curl -s{shown} {http}/v2/models"
    said = {name: one.curl for name, one in calls.items() if isinstance(one, FirstCall) and one.curl}
    curls = [index]
    if said:
        name = min(said, key=lambda name: len(said[name]))
        variant = next(model.variants[-1] for model in models if model.name == name)
        curls = [
            f"{index}/{name}",
            f"{index}/{name}@{variant}/infer {said[name]}",
            f"  curl -s {admin}/metrics | grep {name}",
        ]
    display.show_addresses(
        console,
        http=http,
        admin=admin,
        logs=options.run_dir / "logs",
        callers=f"those who show the key in {key.file}" if key else "everybody on this machine, without a key",
        curls=curls,
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
