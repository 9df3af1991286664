"""Climbs for some seconds and prints the worst messages, or sends one that was kept."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.security.fuzzing import climb
from tests.security.fuzzing.measure import slowness
from tests.security.fuzzing.side_by_side import Found
from tests.security.fuzzing.targets import TARGETS, Target


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.replay:
        return _replay(arguments.replay)
    print(f"this machine takes {slowness():.2f} of the reference's time", flush=True)
    found: dict[str, Found] = {}
    budget = {"seconds": arguments.seconds / max(len(_chosen(arguments)), 1), "messages": arguments.messages}
    machine = climb.Machine()
    for target in _chosen(arguments):
        try:
            machine.check(target)
            worst = {} if arguments.good else climb.climb(machine, target, arguments.seed, climb.Budget(**budget))
        except Exception:  # the others are climbed all the same
            found[target.name] = Found(failure=traceback.format_exc())
            print(target.name, found[target.name].failure, sep="\n", flush=True)
            continue
        lines = [climb.line(target.name, kind, entry, arguments.seed) for kind, entry in worst.items()]
        print(*lines, sep="\n", flush=True)
        for kind, entry in worst.items():
            climb.keep(target.name, kind, entry, arguments.seed)
        stall, memory = (worst[kind].score if kind in worst else 0.0 for kind in ("stall", "memory"))
        found[target.name] = Found(stall, memory, lines)
    if arguments.write:
        arguments.write.write_text(json.dumps({name: asdict(entry) for name, entry in found.items()}))
    return int(any(entry.failure for entry in found.values()))


def _replay(file: Path) -> int:
    kept = json.loads(file.read_text())
    entry = climb.Machine().closely(TARGETS[kept["target"]], kept["genome"], kept["kind"])
    print(climb.line(kept["target"], kept["kind"], entry, kept["seed"]))
    return 0


def _chosen(arguments: argparse.Namespace) -> list[Target]:
    if arguments.exactly:
        return [TARGETS[name] for name in arguments.exactly]
    return [target for name, target in TARGETS.items() if any(word in name for word in arguments.only or [""])]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzzing", description=__doc__)
    parser.add_argument("only", nargs="*", help="only messages whose names hold one of these")
    parser.add_argument("--exactly", nargs="*", help="these messages")
    parser.add_argument("--seconds", type=float, default=60.0, help="in all, unless --messages are given")
    parser.add_argument("--messages", type=int, default=0, help="for each kind of message")
    parser.add_argument("--good", action="store_true", help="only each one's message without a fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="a file for what was found")
    parser.add_argument("--replay", type=Path, help="a file of .duet/fuzz")
    return parser


if __name__ == "__main__":
    sys.exit(main())
