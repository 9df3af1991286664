"""The command line of ``python -m loadtest``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from loadtest.analysis.validity import RULES
from loadtest.fronts import FRONTS
from loadtest.plan import PRESETS, Plan, parse_slo

REPORTED = ("convnet", "lstm_text_generator", "text_classifier")
REPORTED_FRONTS = ("v2_rest_binary", "v2_grpc")
NEVER_ALLOWED = ("V6",)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises SystemExit with usage on a bad command line, and after --help."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load, and what can be concluded from it.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    formatter = argparse.ArgumentDefaultsHelpFormatter
    compare = commands.add_parser(
        "compare",
        help="which framework serves a model better, and by how much",
        epilog="Exit codes: 0 done, 1 no load was made, 3 INVALID, 4 NOT COMPARABLE, 130 interrupted.",
        formatter_class=formatter,
    )
    compare.add_argument("model", metavar="MODEL", nargs="?", default="convnet", help="one with both variants")
    _add_comparing(compare, fronts=("v2_rest_binary",), preset="quick")
    compare.add_argument("--sweep", action="store_true", help="also over callers, batch and payload sizes")
    compare.add_argument("--cold-start", type=_count, default=0, metavar="N", help="also N restarts of each server")
    compare.add_argument("--resume", action="store_true", help="go on with the interrupted run of these options")
    report = commands.add_parser(
        "report", help="compare several models, and one page of it all", formatter_class=formatter
    )
    report.add_argument("models", metavar="MODEL", nargs="*", default=list(REPORTED), help="models with both variants")
    _add_comparing(report, fronts=REPORTED_FRONTS, preset="brief")
    report.add_argument("--no-sweep", dest="sweep", action="store_false", help="leave out callers and batch sizes")
    report.add_argument("--cold-start", type=_count, default=0, metavar="N", help="also N restarts of each server")
    report.add_argument("--resume", action="store_true", help="go on with what was interrupted or ended invalid")
    calibrate = commands.add_parser("calibrate", help="prove the instrument on this machine", formatter_class=formatter)
    calibrate.add_argument("--short", action="store_true", help="without A against A, which takes minutes")
    calibrate.add_argument(
        "--break-schedule", action="store_true", help="send in closed loop, to see that the stall check fails then"
    )
    _add_out(calibrate)
    cold = commands.add_parser(
        "cold-start", help="from a server's start to its steady answers", formatter_class=formatter
    )
    cold.add_argument("model", metavar="MODEL", nargs="?", default="convnet")
    cold.add_argument("--restarts", type=_count, default=10, metavar="N", help="of each server")
    cold.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="DIR", help="the models' folder")
    _add_out(cold)
    return parser.parse_args(arguments)


def _add_comparing(parser: argparse.ArgumentParser, *, fronts: tuple[str, ...], preset: str) -> None:
    parser.add_argument(
        "--front", action="append", choices=list(FRONTS), default=None, help=f"repeat for several; {', '.join(fronts)}"
    )
    parser.set_defaults(default_fronts=fronts)
    loads = parser.add_mutually_exclusive_group()
    loads.add_argument("--rate", type=_positive, default=0.0, metavar="PER_SECOND", help="0: a modest one is chosen")
    loads.add_argument("--search-slo", type=_slo, metavar="p99=50ms", help="also search the largest rate within it")
    sizes = parser.add_mutually_exclusive_group()
    for name, one in PRESETS.items():
        text = f"{one.pairs} pairs of blocks of {one.seconds:g} s"
        sizes.add_argument(f"--{name}", dest="preset", action="store_const", const=name, default=preset, help=text)
    parser.add_argument("--pairs", type=_count, metavar="N", help="of blocks; no verdict below 8")
    parser.add_argument("--seconds", type=_positive, help="of a block through the gateway; half of it directly")
    parser.add_argument("--no-direct", dest="direct", action="store_false", help="through the gateway alone")
    parser.add_argument("--batch", type=_count, default=1, metavar="ROWS", help="of one request")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="generator processes")
    parser.add_argument("--generator-cores", type=_cores, default=(), metavar="0,1", help="where the generator may run")
    parser.add_argument("--timeout", type=_positive, default=10.0, metavar="SECONDS", help="what a failure counts as")
    parser.add_argument("--price-per-hour", type=_positive, default=0.0, help="with --search-slo: cost per million")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, default=Path(".duet/duet.yaml"), help="the gateway's settings")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), metavar="DIR", help="the models' folder")
    parser.add_argument(
        "--allow-diff", action="append", type=_reason, default=[], metavar="ROW=REASON",
        help="a row of the configuration table that may differ",
    )  # fmt: skip
    parser.add_argument(
        "--allow", action="append", type=_rule, default=[], metavar="RULE=REASON",
        help="a validity rule that is left aside, as V8=shared machine; printed in the report",
    )  # fmt: skip
    _add_out(parser)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path(".duet/loadtest"), metavar="DIR", help="where runs are kept")


def plan_of(arguments: argparse.Namespace, model: str, version: int) -> Plan:
    preset = PRESETS[arguments.preset]
    seconds = arguments.seconds or preset.seconds
    return Plan(
        model=model,
        version=version,
        fronts=tuple(dict.fromkeys(arguments.front or arguments.default_fronts)),
        preset=arguments.preset,
        pairs=arguments.pairs or preset.pairs,
        seconds=seconds,
        direct_seconds=arguments.seconds / 2 if arguments.seconds else preset.direct_seconds,
        warm_seconds=preset.warm_seconds,
        settle_seconds=preset.settle_seconds,
        rate=arguments.rate,
        slo=arguments.search_slo,
        searches=preset.searches,
        probe_seconds=preset.probe_seconds,
        direct=arguments.direct,
        workers=arguments.workers,
        seed=arguments.seed,
        batch=arguments.batch,
        price_per_hour=arguments.price_per_hour,
        timeout_seconds=arguments.timeout,
        generator_cores=arguments.generator_cores,
        allowed_rows=dict(arguments.allow_diff),
        allowed_rules=dict(arguments.allow),
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10_000):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 10000, not {text!r}")
    return int(text)


def _cores(text: str) -> tuple[int, ...]:
    here = os.sched_getaffinity(0)
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) in here for part in parts):
        raise argparse.ArgumentTypeError(f"must be some of the cores {','.join(map(str, sorted(here)))}, not {text!r}")
    return tuple(map(int, parts))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _slo(text: str) -> tuple[float, float]:
    try:
        return parse_slo(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _reason(text: str) -> tuple[str, str]:
    name, _, reason = text.partition("=")
    if not name or not reason.strip():
        raise argparse.ArgumentTypeError(f"must be a name and a reason as in NAME=REASON, not {text!r}")
    return name, reason.strip()


def _rule(text: str) -> tuple[str, str]:
    name, reason = _reason(text)
    if name not in RULES or name in NEVER_ALLOWED:
        raise argparse.ArgumentTypeError(f"no rule {name!r} that can be left aside; there are {', '.join(RULES)}")
    return name, reason
