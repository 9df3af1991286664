"""``python -m loadtest compare|report|calibrate|cold-start``. Exit codes: see loadtest/failures.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest import coldstart, report, runfolder, stack, sweep
from loadtest.calibration import record
from loadtest.compare import Comparison
from loadtest.display import show_calibration, show_cold_start, show_result
from loadtest.failures import Invalid, LoadFailed, NotComparable
from loadtest.options import parse, plan_of
from loadtest.payloads import common_version, twin
from loadtest.plan import Plan
from loadtest.results import agreement

INTERRUPTED = 130


def main() -> int:
    arguments = parse(sys.argv[1:])
    console = Console()
    try:
        return COMMANDS[arguments.command](arguments, console)
    except LoadFailed as error:
        title = {Invalid: "INVALID: ", NotComparable: "NOT COMPARABLE: "}.get(type(error), "loadtest: ")
        console.print(f"{title}{error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        more = " Go on with: the same command and --resume" if hasattr(arguments, "resume") else ""
        console.print(f"Interrupted.{more}", highlight=False)
        return INTERRUPTED


def compare(arguments: argparse.Namespace, console: Console) -> int:
    plan = make_plan(arguments, arguments.model)
    result, folder = run(plan, arguments, console)
    page = report.write([result], folder)
    console.print(f"\n{result['sentence']}", style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Report: {page}", highlight=False, markup=False, soft_wrap=True)
    if not result["validity"]["holds"]:
        raise Invalid("; ".join(f"{rule} {where}: {text}" for rule, where, text in result["validity"]["broken"][:5]))
    return 0


def run(plan: Plan, arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], Path]:
    found = stack.find(arguments.config)
    earlier = runfolder.finished_before(arguments.out, plan, valid=True)
    comparison = Comparison(plan, found, root=arguments.out, artifacts=arguments.artifacts, console=console)
    result = comparison.run(resume=arguments.resume)
    if arguments.sweep:
        result["sweep"] = sweep.run(comparison, console)
    if arguments.cold_start:
        result["cold_start"] = coldstart.run(
            plan.model, plan.version, arguments.artifacts, arguments.cold_start, comparison.folder.path, console
        )
    result["earlier"] = agreement(earlier, result) if earlier else ""
    comparison.folder.write(runfolder.RESULT, result)
    show_result(console, result)
    return result, comparison.folder.path


def make_plan(arguments: argparse.Namespace, model: str) -> Plan:
    return plan_of(arguments, model, common_version(twin(arguments.artifacts, model)))


def make_report(arguments: argparse.Namespace, console: Console) -> int:
    """Every model is settled before the first is loaded."""
    plans = [make_plan(arguments, model) for model in arguments.models]
    done = []
    for plan in plans:
        console.rule(plan.model)
        finished = runfolder.finished_before(arguments.out, plan) if arguments.resume else None
        if finished and not finished["validity"]["holds"]:
            finished = None  # an invalid one is made anew, whole
        resumable = arguments.resume and finished is None and runfolder.is_resumable(arguments.out, plan)
        once = argparse.Namespace(**{**vars(arguments), "resume": resumable})
        done.append(finished or run(plan, once, console)[0])
    page = report.write(done, arguments.out)
    console.print(f"\nReport: {page}", highlight=False, markup=False, soft_wrap=True)
    broken = [one["model"] for one in done if not one["validity"]["holds"]]
    if broken:
        raise Invalid(
            f"no verdict on {', '.join(broken)}; the report tells which rules were broken. --resume makes "
            "those anew, and keeps the others"
        )
    return 0


def calibrate(arguments: argparse.Namespace, console: Console) -> int:
    with console.status("") as status:

        def tell(text: str) -> None:
            status.update(text)

        found = record.calibrate(tell, full=not arguments.short, closed_loop=arguments.break_schedule)
    show_calibration(console, found)
    if not arguments.break_schedule:
        record.write(found, arguments.out)
    return 0 if found.passed else 1


def cold_start(arguments: argparse.Namespace, console: Console) -> int:
    version = common_version(twin(arguments.artifacts, arguments.model))
    folder = arguments.out / "cold-start"
    folder.mkdir(parents=True, exist_ok=True)
    found = coldstart.run(arguments.model, version, arguments.artifacts, arguments.restarts, folder, console)
    show_cold_start(console, found)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "compare": compare,
    "report": make_report,
    "calibrate": calibrate,
    "cold-start": cold_start,
}


if __name__ == "__main__":
    sys.exit(main())
