"""Compiles `Calls.java` beside this file, with the source's own digest in it. It needs ``javac``; the tests do not."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
_DIGEST = re.compile(r'(?<=SOURCE = ")[0-9a-f]{64}(?=")')


def digest() -> str:
    """SHA-256 of the source with zeros in the digest's place."""
    source = (FOLDER / "Calls.java").read_text()
    return hashlib.sha256(_DIGEST.sub("0" * 64, source).encode()).hexdigest()


def main() -> int:
    source = (FOLDER / "Calls.java").read_text()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Calls.java").write_text(_DIGEST.sub(digest(), source))
        command = ["javac", "--release", "11", "-g:none", "-d", str(FOLDER), str(Path(folder) / "Calls.java")]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
