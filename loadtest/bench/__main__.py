"""``python -m loadtest.bench [ROW ...]``: measures the rows, prints the table, keeps the figures as JSON."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from loadtest.bench import peer_rows, report
from loadtest.bench.generator import Generator
from loadtest.bench.measure import Options
from loadtest.bench.rows import ROWS, Bench, Row
from loadtest.bench.stack import BenchError, Stack
from serving.failures import Failure


def main() -> int:
    arguments = _parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 180)
    every = peer_rows.ROWS if arguments.peers else ROWS
    rows = [row for row in (*ROWS, *peer_rows.ROWS) if row.name in arguments.rows] if arguments.rows else list(every)
    options = Options(arguments.rounds, arguments.seconds, arguments.warm_up)
    load = os.getloadavg()
    if load[0] > 0.5 * (os.cpu_count() or 1):
        console.print(
            f"The machine is busy (load {load[0]:.1f}): ratios suffer, absolute figures more.", style="yellow"
        )
    try:
        lines = _measure(rows, options, arguments, console)
    except (BenchError, Failure) as error:
        console.print(f"bench: {error}", style="bold red", highlight=False, markup=False)
        return 1
    report.show(console, lines)
    path = arguments.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    report.keep(path, lines, options, load)
    console.print(f"Load {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after. Kept in {path}.")
    return 0 if all(line.met for line in lines) else 1


def _measure(rows: list[Row], options: Options, arguments: argparse.Namespace, console: Console) -> list[report.Line]:
    lines = []
    with Stack(arguments.folder.absolute(), arguments.artifacts.absolute()) as stack, Generator() as generator:
        bench = Bench(stack, generator, options)
        for row in rows:
            begun = time.monotonic()
            outcome = row.run(bench)
            lines.append(report.Line(row.name, row.title, row.target, outcome))
            seconds = time.monotonic() - begun
            text = f"{row.name}: {outcome.number:.2f}{outcome.unit} ({row.target}), {outcome.detail}; {seconds:.0f} s"
            console.print(text, style="dim", highlight=False)
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = [row.name for row in (*ROWS, *peer_rows.ROWS)]
    parser.add_argument("rows", nargs="*", type=_known, metavar="ROW", help=f"only these: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each leg, of which the median counts")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument(
        "--warm-up", type=float, default=4.0, metavar="SECONDS", help="of each leg, before its first turn"
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="DIR", help="the trained models")
    parser.add_argument("--folder", type=Path, default=Path(".duet/bench"), metavar="DIR", help="logs and results")
    parser.add_argument(
        "--peers", action="store_true", help="the rows against other servers, which make bench-peers has"
    )
    return parser


def _known(name: str) -> str:
    if name not in {row.name for row in (*ROWS, *peer_rows.ROWS)}:
        raise argparse.ArgumentTypeError(f"{name!r} is no row; --help names them")
    return name


if __name__ == "__main__":
    sys.exit(main())
