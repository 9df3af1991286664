"""Generates the stubs beside this file from its .proto files: ``make protos``. The result is checked in."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    from grpc_tools import protoc  # type: ignore[import-untyped]  # a development tool only: the gateway runs without it

    root = FOLDER.parent.parent
    files = [str(path.relative_to(root)) for path in sorted(FOLDER.glob("*.proto"))]
    return int(protoc.main(["protoc", f"-I{root}", f"--python_out={root}", f"--pyi_out={root}", *files]))


if __name__ == "__main__":
    sys.exit(main())
