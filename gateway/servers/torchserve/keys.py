"""TorchServe's access tokens: read from the key file that it writes, renewed before they expire, never shown.

TorchServe 0.12 asks for a token on every call and writes three keys to ``key_file.json`` at each start; the management
and inference keys expire (60 minutes by default) and are renewed by ``GET /token`` with the API key
(serve ``docs/token_authorization_api.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from gateway.stamps import Stamp, stamp

#: Keys with less to live are renewed at once.
_LEAST_SECONDS = 1.0


class Keys:
    """The keys in ``path``. No file at all means that the server asks for none: the lines are then empty.

    Raises nothing: a file that cannot be read gives empty lines, and the server's refusal tells the rest.
    """

    def __init__(self, path: Path | None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._read_at: Stamp | None = None
        self._lifetime_seconds = 0.0
        self._keys: dict[str, Any] = {}
        self.inference = self.management = ""

    def reread(self) -> None:
        """Takes the file's keys where the file has changed since."""
        if self._path is None:
            return
        try:
            found = stamp(self._path)
            if found == self._read_at:
                return
            keys = orjson.loads(self._path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return
        self._read_at = found
        self._keys = keys if isinstance(keys, dict) else {}
        self.inference, self.management = _line(self._keys.get("inference")), _line(self._keys.get("management"))
        self._lifetime_seconds = self._seconds_left() or 0.0

    def due_for_renewal(self) -> bool:
        """True once half of the lifetime that the keys had when they were read is over, or all of it.

        Keys may be old when they are read: of a gateway that starts an hour after TorchServe did.
        """
        left = self._seconds_left()
        return left is not None and left < max(_LEAST_SECONDS, self._lifetime_seconds / 2)

    @property
    def renewal(self) -> str:
        """The header line that ``GET /token`` wants."""
        return _line(self._keys.get("API"))

    def _seconds_left(self) -> float | None:
        moments = [_moment(entry) for entry in (self._keys.get("inference"), self._keys.get("management"))]
        known = [moment for moment in moments if moment is not None]
        return (min(known) - self._now()).total_seconds() if known else None


def _line(entry: Any) -> str:
    key = entry.get("key") if isinstance(entry, dict) else None
    return f"Authorization: Bearer {key}\r\n" if isinstance(key, str) and key.isascii() and key.isprintable() else ""


def _moment(entry: Any) -> datetime | None:
    text = entry.get("expiration time") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        return None
    try:
        # Java's Instant prints nanoseconds; fromisoformat takes microseconds.
        return datetime.fromisoformat(text.rstrip("Z")[:26] + "+00:00")
    except ValueError:
        return None
