"""``python -m loadtest compare [MODEL]``: requests/s and latencies of both frameworks through the running gateway."""

from __future__ import annotations

import argparse
import json
import sys
from urllib.error import URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.table import Table

from loadtest.compare import VARIANTS, LoadFailed, Result, run
from loadtest.payloads import json_body
from models.catalog import CATALOG


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    try:
        _check_answers(arguments.url, arguments.model)
        results = run(
            url=arguments.url,
            model=arguments.model,
            users=arguments.users,
            seconds=arguments.seconds,
            rounds=arguments.rounds,
            warm_up=arguments.warm_up,
            report=lambda line: console.print(line, style="dim"),
        )
    except LoadFailed as error:
        console.print(f"loadtest: {error}", style="bold red", highlight=False)
        return 1
    console.print(_table(arguments.model, results))
    console.print(
        "A short look with waiting callers, both frameworks in turns; differences of some ten percent are noise."
    )
    return 1 if any(result.failed for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare = commands.add_parser(
        "compare",
        help="load both variants of a model through the gateway",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    compare.add_argument("model", nargs="?", default="convnet", choices=list(CATALOG), help="whose twins to load")
    compare.add_argument("--url", default="http://localhost:8000", help="the gateway")
    compare.add_argument("--users", type=int, default=8, help="callers at the same time")
    compare.add_argument("--seconds", type=float, default=5, help="of each turn")
    compare.add_argument("--rounds", type=int, default=2, help="turns of each framework")
    compare.add_argument("--warm-up", type=float, default=2, metavar="SECONDS", help="thrown away at each turn's start")
    return parser


def _check_answers(url: str, model: str) -> None:
    """Raises LoadFailed unless both variants answer the very request that the load is made of."""
    for variant in VARIANTS:
        target = f"{url}/v2/models/{model}@{variant}/infer"
        try:
            with urlopen(Request(target, data=json_body(model)), timeout=30) as answer:  # noqa: S310 - the user's address
                json.load(answer)["outputs"]
        except (URLError, ValueError, KeyError) as error:
            hint = "" if getattr(error, "code", None) else "; start it with make up, or give --url"
            raise LoadFailed(f"{target} does not answer: {error}{hint}") from error


def _table(model: str, results: list[Result]) -> Table:
    table = Table(title=f"{model} through the gateway, REST with JSON")
    for name in ("framework", "requests", "failed", "requests/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(name, justify="left" if name == "framework" else "right")
    for result in results:
        table.add_row(
            result.variant,
            f"{result.requests:,}",
            f"{result.failed:,}",
            f"{result.requests_per_second:,.0f}",
            f"{result.p50:.2f}",
            f"{result.p95:.2f}",
            f"{result.p99:.2f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
