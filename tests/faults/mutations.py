"""``make faults-mutations``: switches each layer off, by its setting or by hand; the test that guards it must go red.

A mutation counts as noticed only where its own test fails, by one of its figures; with everything on, that test holds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from tests.faults.__main__ import once

_OFF = {"enabled": False}
_UNBOUND = {"share": 1, "per_second": 10_000}
_LONG = 3600


@dataclass(frozen=True)
class Mutation:
    """``test`` is pytest's -k; ``figure`` a word of the check that must break.

    What is switched off is named by ``settings``, or, where no setting does it, by ``without``.
    """

    what: str
    settings: dict[str, Any]
    test: str
    figure: str
    without: str = ""


MUTATIONS = (
    Mutation("retry", {"retry": _OFF}, "r07 and torchserve-unbatched", "retried"),
    Mutation("retry's budget", {"retry": _UNBOUND}, "r12 and torchserve-unbatched", "attempts"),
    Mutation("breaker", {"breaker": _OFF}, "r03 and describes and torchserve-unbatched", "called <="),
    Mutation("balance", {"balance": _OFF}, "r04 and torchserve-unbatched", "moved"),
    Mutation("limit", {"limit": _OFF}, "r11 and torchserve-unbatched", "others"),
    Mutation("validation", {"validation": _OFF}, "r08 and torchserve-unbatched", "502"),
    Mutation("deadlines of heads", {"http": {"headers_seconds": _LONG}}, "r05 and heads", "gone"),
    Mutation("deadlines of bodies", {"http": {"body_seconds": _LONG}}, "r05 and bodies", "gone"),
    Mutation("stall deadline", {"http": {"stall_seconds": _LONG}}, "r06 and rest", "given up"),
    Mutation("budget of bytes", {"max_bytes_in_flight": 1 << 40}, "r16", "503"),
    Mutation("idle deadline", {"http": {"idle_seconds": _LONG}}, "r17", "idle ones"),
    Mutation("lingering", {"linger_seconds": 0}, "r10 and torchserve-unbatched", "lost"),
    Mutation("refreshing", {"refresh_seconds": _LONG}, "r09 and torchserve-batched", "versions"),
    Mutation("stall deadline of gRPC", {"grpc": {"stall_seconds": _LONG}}, "r06 and grpc", "given up"),
    Mutation("deadlines", {}, "r13 and torchserve-unbatched", "504", "deadlines"),
    Mutation("letting go", {}, "r14 and torchserve-unbatched", "let go", "letting go"),
    Mutation("new addresses", {}, "r19 and torchserve-unbatched", "gone", "new addresses"),
    Mutation("renewal of tokens", {}, "r20 and expire_and_change and unbatched", "renewed", "renewal"),
    Mutation("no second retry", {}, "r21 and poison and torchserve-unbatched", "kills two", "one retry"),
    Mutation("ages of open calls", {}, "r03 and torchserve-stopped-64", "a quarter", "ages"),
    Mutation("resending", {}, "r23 and unbatched", "nobody fails", "resending"),
)


def main() -> int:
    missed = 0
    for mutation in MUTATIONS:
        records, code = once(["-k", mutation.test], mutation.settings, mutation.without)
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
