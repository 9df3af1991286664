"""``python -m tests.security.fuzzing``: climbs for some seconds and prints the worst; or replays one that was kept."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.security.fuzzing import climb
from tests.security.fuzzing.measure import REFERENCE_SECONDS, calibrated
from tests.security.fuzzing.targets import TARGETS


def main() -> int:
    arguments = _parser().parse_args()
    print(f"this machine: {calibrated() / REFERENCE_SECONDS:.2f} times the reference's time")
    if arguments.replay:
        kept = json.loads(arguments.replay.read_text())
        machine = climb.Machine()
        found, _ = machine.cost(TARGETS[kept["target"]], kept["genome"], closely=True)
        print(climb.line(kept["target"], kept["kind"], climb.Entry(0, kept["genome"], found), kept["seed"]))
        return 0
    chosen = [target for name, target in TARGETS.items() if any(word in name for word in arguments.only or [""])]
    found = climb.climb_all(chosen, seed=arguments.seed, seconds=arguments.seconds, messages=arguments.messages)
    for name, entries in found.items():
        for kind, entry in entries.items():
            climb.keep(name, kind, entry, arguments.seed)
            print(climb.line(name, kind, entry, arguments.seed))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzzing", description=__doc__)
    parser.add_argument("only", nargs="*", help="only messages whose names hold one of these")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--messages", type=int, default=0, help="so many for each, with --seconds 0")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path, help="a file of .duet/fuzz")
    return parser


if __name__ == "__main__":
    sys.exit(main())
