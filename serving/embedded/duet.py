"""What Duet knows of a SavedModel: `assets.extra/duet.json`, which training and import write into it.

The server reports it as it is, under the metadata field `duet`. Of what it says, the server obeys `rows` itself.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path("assets.extra", "duet.json")
MAX_BYTES = 1 << 20


def read(version: Path) -> bytes:
    """The file's text; empty where there is none that could be read, or where it is larger than any of ours."""
    try:
        with (version / FILE).open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError:
        return b""
    return text if len(text) <= MAX_BYTES else b""


def rows(text: bytes) -> str:
    """`independent`, `dependent` or `unknown`: whether a row gets the same answer alone as beside other rows."""
    try:
        known = json.loads(text)
    except (ValueError, RecursionError):
        return "unknown"
    told = known.get("rows") if isinstance(known, dict) else None
    return told if told in ("independent", "dependent") else "unknown"
