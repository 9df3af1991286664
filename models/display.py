"""What `python -m models` shows: a progress bar per model and framework, and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from models.artifacts import TO_REPACK, Artifact, State, Store
from models.importing.independence.conclude import told, without_rows
from models.plan import Step
from models.served import Served
from models.spec import FRAMEWORKS, ModelSpec, TensorSpec

if TYPE_CHECKING:
    from models.importing.deliver import Delivery
    from models.parity import Difference, Parity

STYLES = {State.READY: "green", State.MISSING: "red"} | dict.fromkeys((State.OUTDATED, *TO_REPACK), "yellow")


class Bars:
    """A bar per step. Where the output is no terminal, a line per finished step instead."""

    def __init__(self, console: Console, steps: Sequence[Step], epochs: Callable[[Step], int]) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[Step, TaskID] = {
            step: self._progress.add_task(title(step), total=epochs(step), start=False, note="") for step in steps
        }

    @contextmanager
    def shown(self) -> Iterator[Bars]:
        with self._progress:
            yield self

    def begin(self, step: Step) -> None:
        self._progress.start_task(self._tasks[step])
        self._progress.update(self._tasks[step], note=f"loading {step.artifact.framework} and the data")

    def epoch(self, step: Step, loss: float) -> None:
        self._progress.update(self._tasks[step], advance=1, note=f"loss {loss:.4g}")

    def end(self, step: Step, record: dict[str, Any] | None) -> None:
        note = outcome(record)
        task = self._tasks[step]
        self._progress.update(task, completed=self._progress.tasks[task].total, note=note)
        self._progress.stop_task(task)
        if not self._console.is_terminal:
            self._console.print(f"{title(step)}: {note}", highlight=False)


def title(step: Step) -> str:
    artifact = step.artifact
    return f"{step.action} {artifact.name} {artifact.version} {artifact.framework}"


def outcome(record: dict[str, Any] | None) -> str:
    if record is None:
        return "packed again, with today's handler and signature"
    parts = [measured(record)]
    if "loss" in record:
        parts.insert(0, f"loss {record['loss'][-1]:.4g}")
        parts.append(f"{record['seconds']:.1f} s")
    if not record["meets_bar"]:
        parts.append(f"below the bar of {record['bar']}")
    return ", ".join(parts)


def measured(record: dict[str, Any]) -> str:
    if "accuracy" in record:
        return f"accuracy {record['accuracy']:.2%}"
    if "greatest_error" in record:
        return f"error {record['greatest_error']:.2g}"
    return f"{record['measure']} {record[record['measure']]:.3g}"


def results(store: Store, specs: Sequence[ModelSpec], frameworks: Sequence[str]) -> Table:
    """What is there now, from the records."""
    table = Table(Column("model", no_wrap=True), "", *frameworks)
    for spec in specs:
        for version in spec.versions:
            records = [store.record(Artifact(spec.name, version, framework)) for framework in frameworks]
            table.add_row(spec.name, str(version), *map(summary, records))
    return table


def summary(record: dict[str, Any] | None) -> str:
    if record is None:
        return "missing"
    how = f"loss {record['loss'][-1]:.2g}, {record['seconds']:.1f} s" if "loss" in record else record["origin"]
    return f"{measured(record)}\n[dim]{how}[/]"


def listing(store: Store, specs: Sequence[ModelSpec]) -> Table:
    table = Table(
        Column("model", no_wrap=True), "inputs and outputs", "data", *FRAMEWORKS, caption=f"artifacts in {store.root}"
    )
    for spec in specs:
        states = [
            "\n".join(
                f"{version} [{STYLES[state]}]{state}[/]"
                for version in spec.versions
                for state in (store.state(Artifact(spec.name, version, framework)),)
            )
            for framework in FRAMEWORKS
        ]
        table.add_row(spec.name, tensors((*spec.inputs, *spec.outputs)), "\n".join(spec.datasets), *states)
    return table


def tensors(specs: Sequence[TensorSpec]) -> str:
    return "\n".join(f"{spec.name} {spec.datatype} {escape(str(list(spec.shape)))}" for spec in specs)


def parities(found: Sequence[Parity]) -> Table:
    """`of tol` is the difference as a share of what is allowed: 1e-05 and a ten-thousandth of the value."""
    table = Table(
        Column("model", no_wrap=True),
        "",
        *(Column(title, justify="right") for title in ("rows", "max abs", "max rel", "of tol", "top-1")),
        "",
        caption="greatest differences between the frameworks' artifacts on disk",
    )
    for one in found:
        table.add_row(one.model, str(one.version), str(one.rows), *figures(one.difference), verdict(one))
    return table


def figures(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["-"] * 4
    numbers = (difference.absolute, difference.relative, difference.of_tolerance)
    return [*(f"{number:.2g}" for number in numbers), "-" if difference.top1 is None else f"{difference.top1:.1%}"]


def verdict(one: Parity) -> str:
    if one.problems:
        return "[red]fails[/]"
    if one.difference is not None and one.difference.within:
        return "[green]equal[/]"  # so can version 1 be, which is trained in each framework on its own
    return "[dim]apart[/]"


def imports(models: Sequence[Served]) -> Table:
    table = Table("imported", "inputs and outputs", *FRAMEWORKS)
    for model in models:
        versions = [", ".join(map(str, model.versions.get(framework, ()))) or "-" for framework in FRAMEWORKS]
        table.add_row(model.name, tensors((*model.inputs, *model.outputs)), *versions)
    return table


def show_delivery(console: Console, delivery: Delivery) -> None:
    artifact, trial, finding = delivery.artifact, delivery.trial, delivery.finding
    joinable = not without_rows(delivery.inputs, trial.outputs)
    lines = [
        f"{artifact.name} version {artifact.version} ({artifact.framework}), in {delivery.path}",
        *(f"  takes  {tensor}" for tensor in tensors(delivery.inputs).splitlines()),
        *(f"  gives  {tensor}" for tensor in tensors(trial.outputs).splitlines()),
        f"  answered in {trial.milliseconds:.2g} ms",
        *([f"  {escape(told(finding, joinable=joinable))}"] if finding else []),
        *(f"  note: {escape(note)}" for note in trial.notes),
        f"Served from the next start of the servers as {artifact.name}, or {artifact.name}@{artifact.framework}.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
