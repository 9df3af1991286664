"""What `up` shows: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from serving.firstcalls import Answer
from serving.readiness import Readiness


class Progress:
    """Shows what each server still waits for; call `update` after each poll. A context manager."""

    def __init__(self, console: Console, readiness: Readiness) -> None:
        self._console = console
        self._readiness = readiness
        self._shown: dict[str, str] = {}
        self._spinner = Spinner("dots")
        # No refreshing thread: the loop that polls also draws.
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        states = {server: self._state(server, lack) for server, lack in self._readiness.waiting_for().items()}
        if self._live:
            self._live.update(self._table(states), refresh=True)
            return
        for server, state in states.items():
            if self._shown.get(server) != state:
                self._console.print(f"{server}: {state}", soft_wrap=True)
        self._shown = states

    def _state(self, server: str, lack: str) -> str:
        after = self._readiness.ready_after_seconds.get(server)
        return f"waiting for {lack}" if after is None else f"ready after {after:.1f} s"

    def _table(self, states: Mapping[str, str]) -> Table:
        table = Table.grid(padding=(0, 2))
        for server, state in states.items():
            ready = server in self._readiness.ready_after_seconds
            table.add_row("[green]✓[/]" if ready else self._spinner, f"[bold]{server}[/]", state)
        return table


def answers_table(rows: Sequence[tuple[Answer, str, str]]) -> Table:
    """Each answer with itself and the truth in a few characters; of a call that failed, why."""
    table = Table(title="One prediction per model and framework", title_justify="left")
    for name in ("model", "framework"):
        table.add_column(name)
    for name in ("version", "answer", "truth", "latency ms"):
        table.add_column(name, justify="right")
    for answer, given, truth in rows:
        latency = "-" if answer.failure else f"{answer.latency_ms:.1f}"
        shown = Text(f"failed: {answer.failure}", style="red") if answer.failure else Text(given)
        table.add_row(answer.model, answer.variant, answer.version, shown, truth, latency)
    return table


def show_addresses(console: Console, *, http: str, admin: str, logs: Path, callers: str, curls: Sequence[str]) -> None:
    lines = [
        "",
        f"inference  {http}/v2",
        f"callers    {callers}",
        f"metrics    {admin}/metrics",
        f"docs       {admin}/docs",
        f"logs       {logs}",
        "",
        "Try it:",
        *curls,
        "",
        "Ctrl-C stops everything.",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
