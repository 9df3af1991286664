"""``make faults-mutations``: switches each layer off, by its setting, and shows that the test that guards it goes red.

A mutation counts as noticed only where its own test fails, by one of its figures; with everything on, that test holds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from tests.faults.__main__ import once

_OFF = {"enabled": False}
_LONG = 3600


@dataclass(frozen=True)
class Mutation:
    """``test`` is pytest's -k; ``figure`` a word of the check that must break."""

    what: str
    settings: dict[str, Any]
    test: str
    figure: str


MUTATIONS = (
    Mutation("retry", {"retry": _OFF}, "r07 and torchserve", "retried"),
    Mutation("retry's budget", {"retry": {"share": 1, "per_second": 10_000}}, "r12 and torchserve", "attempts"),
    Mutation("breaker", {"breaker": _OFF}, "r03 and describes and torchserve", "called <="),
    Mutation("balance", {"balance": _OFF}, "r04 and torchserve", "moved"),
    Mutation("limit", {"limit": _OFF}, "r11 and torchserve", "others"),
    Mutation("validation", {"validation": _OFF}, "r08 and torchserve", "502"),
    Mutation("deadlines of heads", {"http": {"headers_seconds": _LONG}}, "r05 and heads", "gone"),
    Mutation("deadlines of bodies", {"http": {"body_seconds": _LONG}}, "r05 and bodies", "gone"),
    Mutation("stall deadline", {"http": {"stall_seconds": _LONG}}, "r06", "given up"),
    Mutation("budget of bytes", {"max_bytes_in_flight": 1 << 40}, "r16", "503"),
    Mutation("idle deadline", {"http": {"idle_seconds": _LONG}}, "r17", "idle ones"),
    Mutation("lingering", {"linger_seconds": 0}, "r10 and torchserve", "lost"),
    Mutation("refreshing", {"refresh_seconds": _LONG}, "r09 and torchserve-batched", "versions"),
)


def main() -> int:
    missed = 0
    for mutation in MUTATIONS:
        records, code = once(["-k", mutation.test], mutation.settings)
        broken = [check["what"] for record in records for check in record["checks"] if check["holds"] is False]
        # Where it never comes to its figures (nobody is given up, say), the test fails without a record.
        noticed = any(mutation.figure in what for what in broken) or (code == 1 and not records)
        missed += not noticed
        how = "; ".join(broken) or ("it waits in vain" if code == 1 else "nothing")
        print(f"{'noticed' if noticed else 'MISSED '}  {mutation.what:20} by {mutation.test}: {how}", flush=True)
    print(f"{len(MUTATIONS) - missed} of {len(MUTATIONS)} layers are guarded")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
