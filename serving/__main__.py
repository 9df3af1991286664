"""`python -m serving up`."""

from __future__ import annotations

import sys

from rich.console import Console

from serving.options import parse
from serving.up import up

if __name__ == "__main__":
    sys.exit(up(parse(sys.argv[1:]), Console(highlight=False)))
