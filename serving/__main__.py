"""`python -m serving up`, and `python -m serving digests [DIR]`, which prints the allow-list of what is there."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from serving.digests import listing
from serving.failures import Failure
from serving.options import parse
from serving.up import up


def main(arguments: list[str]) -> int:
    if arguments[:1] != ["digests"]:
        return up(parse(arguments), Console(highlight=False))
    if len(arguments) > 2 or any(argument.startswith("-") for argument in arguments):
        print("usage: python -m serving digests [DIR]", file=sys.stderr)
        return 2
    try:
        for line in listing(Path(arguments[1] if len(arguments) > 1 else "artifacts")):
            print(line)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
