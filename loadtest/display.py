"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.calibration.record import Calibration


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    for cell in result["cells"]:
        console.print(_legs(cell))
    if result["verdicts"]:
        console.print(_verdicts(result["verdicts"]))
    for cell in result["cells"]:
        for one in cell["overhead"]:
            low, high = one["interval"]
            known = "too few pairs for an interval" if low is None else f"95 % interval {low:.2f} to {high:.2f}"
            console.print(
                f"The gateway adds {one['ms']:.2f} ms to {one['variant']}'s {one['metric']} over {cell['front']}"
                f" ({known}).",
                highlight=False,
                soft_wrap=True,
            )
    for front, found in result["search"].items():
        shown = ", ".join(f"{leg} {max(rates):.0f}/s" for leg, rates in found["found"].items())
        console.print(f"Largest rate within the SLO over {front}: {shown}.", highlight=False, soft_wrap=True)
    for rule, where, text in result["validity"]["allowed"][:10]:
        reason = result["validity"]["reasons"][rule]
        console.print(
            f"Left aside, {reason!r}: {rule} {where}: {text}", style="yellow", highlight=False, soft_wrap=True
        )
    for text in result["validity"]["repeated"]:
        console.print(f"Repeated: {text}", style="yellow", highlight=False, soft_wrap=True)
    for text in result["validity"]["late"]:
        console.print(f"Late, and counted with its leg: {text}", style="yellow", highlight=False, soft_wrap=True)
    for text in result["validity"]["unsteady"]:
        console.print(f"Unsteady in the warm-up: {text}", style="yellow", highlight=False, soft_wrap=True)
    if result.get("earlier"):
        console.print(f"The run before with this plan {result['earlier']}.", highlight=False)


def _legs(cell: Mapping[str, Any]) -> Table:
    table = Table(title=f"{cell['front']}, milliseconds")
    for name in ("leg", "requests", "failed", "p50", "p95", "p99", "mean"):
        table.add_column(name, justify="left" if name == "leg" else "right", no_wrap=True)
    for leg, found in cell["legs"].items():
        told = found["percentiles_ms"]
        table.add_row(
            leg,
            f"{found['requests']:,}",
            f"{found['failed']:,}",
            *(f"{told[name]:.2f}" if name in told else "too few" for name in ("p50", "p95", "p99")),
            f"{found['mean_ms']:.2f}",
        )
    return table


def _verdicts(verdicts: list[dict[str, Any]]) -> Table:
    table = Table(title="PyTorch over TensorFlow, through the gateway")
    for name in ("front", "metric", "ratio", "95 % interval", "verdict"):
        table.add_column(name, justify="right" if name in ("ratio", "95 % interval") else "left")
    for one in verdicts:
        low, high = one["interval"]
        known = "–" if low is None else f"{low:.3f} – {high:.3f}"
        more = f", about {one['more_pairs']} more pairs" if one["more_pairs"] else ""
        table.add_row(one["front"], one["metric"], f"{one['ratio']:.3f}", known, one["verdict"] + more)
    return table


def show_calibration(console: Console, found: Calibration) -> None:
    for check in found.checks:
        style = "green" if check.passed else "bold red"
        console.print(f"{'passed' if check.passed else 'FAILED'}  ", style=style, end="")
        console.print(f"{check.name}: {check.text}.", highlight=False, soft_wrap=True, markup=False)


def show_cold_start(console: Console, found: Mapping[str, Any]) -> None:
    table = Table(title=f"Cold start of {found['model']}, median and slowest of {found['restarts']}, seconds")
    table.add_column("variant")
    for name in found["milestones"]:
        table.add_column(name, justify="right")
    for variant, of_variant in found["variants"].items():
        cells = (of_variant[name] for name in found["milestones"])
        table.add_row(variant, *(f"{one['median']:.2f}  {one['max']:.2f}" for one in cells))
    console.print(table)
