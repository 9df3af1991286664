"""What an artifact says of itself: the `signature.json` in a `.mar`, or `assets.extra/duet.json` in a SavedModel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.types import Rows


def rows(described: Mapping[str, Any]) -> Rows:
    """Whether its rows are independent. What is absent or no such word is unknown.

    >>> rows({"rows": "independent"}), rows({"rows": "perhaps"})
    (<Rows.INDEPENDENT: 'independent'>, <Rows.UNKNOWN: 'unknown'>)
    """
    try:
        return Rows(described.get("rows"))
    except ValueError:
        return Rows.UNKNOWN


def is_of_duet(described: Mapping[str, Any]) -> bool:
    """Whether Duet's own handler describes it. A stranger's may give inputs and outputs in the same form."""
    return "fingerprint" in described or "rows" in described


def digest(described: Mapping[str, Any]) -> str:
    """Tells one artifact from another that is served under the same number."""
    return hashlib.sha256(orjson.dumps(described, option=orjson.OPT_SORT_KEYS)).hexdigest()


def parsed(text: bytes | str) -> dict[str, Any]:
    """The JSON object in ``text``; empty where it is none."""
    try:
        described = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return described if isinstance(described, dict) else {}
