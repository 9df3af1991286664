"""The worst that one attacker has taken, by currency and by who attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tests.security.siege.attack import NOBODY
from tests.security.siege.world import Measured

#: Name of the case, who attacks, what it cost.
Row = tuple[str, str, Measured]

CURRENCIES: dict[str, tuple[Callable[[Measured], float], str]] = {
    "memory, MiB": (lambda one: one.memory / (1 << 20), "64"),
    "stall of the loop, ms": (lambda one: one.stall * 1e3, ""),
    "others waited (p99), ms": (lambda one: one.waited * 1e3, ""),
    "p99 beyond the machine's, ms": (lambda one: one.waited_for_gateway * 1e3, "50"),
    "a lane waited (median), ms": (lambda one: one.lane_waited * 1e3, ""),
    "median beyond it, ms": (lambda one: one.lane_waited_for_gateway * 1e3, "50"),
    "calls held": (lambda one: one.held, ""),
    "connections held": (lambda one: one.connections, ""),
    "bystanders refused": (lambda one: sum(one.refusals.values()), "0"),
}


def table(rows: Iterable[Row]) -> Iterator[str]:
    """A line for each currency: the worst without a key, and with one for nothing.

    "The machine's" is what bystanders wait for while an unrelated process is attacked in the same way.
    """
    found = list(rows)
    yield f"{'currency':<28}{'bound':>6}  {'without a key':<46}  with a key for nothing"
    for name, (figure, bound) in CURRENCIES.items():
        cells = [_worst([row for row in found if (row[1] == NOBODY) is nobody], figure) for nobody in (True, False)]
        yield f"{name:<28}{bound:>6}  {cells[0]:<46}  {cells[1]}"


def _worst(rows: list[Row], figure: Callable[[Measured], float]) -> str:
    if not rows:
        return "-"
    name, _, measured = max(rows, key=lambda row: figure(row[2]))
    return f"{figure(measured):.0f} ({name})"
