"""API keys, ``gw_<id>_<secret>``: 256 random bits, of which only an HMAC is kept.

A password's slow hash would be wrong here: the secret cannot be guessed, and bcrypt would cost a request 200 ms. With
the pepper, which lies elsewhere, the file of hashes alone tells nothing.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time

from gateway.security.access import Identity
from gateway.security.keyfile import Entry, KeyFileError, read_entries
from gateway.stamps import Stamp, stamp

log = logging.getLogger("duet.security")

PEPPER_BYTES = 32
#: How often the file is looked at for changes.
_LOOK_SECONDS = 1.0
#: How often it is reported that the file cannot be read.
_REMIND_SECONDS = 60.0
#: Keys that were found right and are remembered as they were shown.
_MAX_REMEMBERED = 4096
_KEY = re.compile(rb"gw_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NO_HASH = bytes(32)


def new_key() -> tuple[str, str]:
    """A key's id and the whole key."""
    key_id = secrets.token_hex(4)
    return key_id, f"gw_{key_id}_{secrets.token_urlsafe(32)}"


def digest(pepper: bytes, key: bytes) -> bytes:
    return _finished(hmac.new(pepper, digestmod="sha256"), key)


def _finished(begun: hmac.HMAC, key: bytes) -> bytes:
    """A copy of what has taken in the pepper costs half of beginning anew."""
    mac = begun.copy()
    mac.update(key)
    return mac.digest()


@dataclass(frozen=True, slots=True)
class _Known:
    identity: Identity
    hash: bytes
    expires: float | None


class Keyring:
    """The keys of a file. It is read again when it changes; while what is there cannot be read, the last one counts.

    Such a file is tried again each second, and reported each minute: it may hold a revocation.

    ``time`` is of the epoch, since keys expire by the calendar; ``clock`` only measures.
    """

    def __init__(
        self,
        path: Path,
        *,
        pepper: bytes,
        time: Callable[[], float] = time,
        clock: Callable[[], float] = monotonic,
        max_remembered: int = _MAX_REMEMBERED,
    ) -> None:
        self._path = path
        self._max_remembered = max_remembered
        self._mac = hmac.new(pepper, digestmod="sha256")
        self._time = time
        self._clock = clock
        self._looked = clock()
        self._stamp = _stamp(path)
        self._known = _known(read_entries(path))
        self._reported: float | None = None
        self._right: dict[bytes, _Known] = {}

    def identify(self, key: bytes) -> Identity | None:
        """Who shows ``key``; None for one that is no key, unknown, revoked or expired.

        All of these cost the same: a hash and one comparison, which does not depend on where two hashes differ. A key
        that was right is remembered until the file changes; its end is looked at each time.
        """
        now = self._clock()
        if now - self._looked >= _LOOK_SECONDS:
            self._look(now)
        known = self._right.get(key) or self._compared(key)
        if known is None or (known.expires is not None and self._time() >= known.expires):
            return None
        return known.identity

    def _compared(self, key: bytes) -> _Known | None:
        match = _KEY.fullmatch(key)
        known = self._known.get(match[1].decode()) if match else None
        same = hmac.compare_digest(_finished(self._mac, key[:256]), known.hash if known else _NO_HASH)
        if known is None or not same:
            return None
        if len(self._right) >= self._max_remembered:
            self._right.clear()
        self._right[key] = known
        return known

    def _look(self, now: float) -> None:
        self._looked = now
        found = _stamp(self._path)
        if found == self._stamp:
            return
        try:
            self._known = _known(read_entries(self._path))
        except KeyFileError as error:
            self._report(error, now)
            return
        self._stamp, self._reported = found, None
        self._right.clear()
        log.info("%s: %s keys", self._path, len(self._known))

    def _report(self, error: KeyFileError, now: float) -> None:
        if self._reported is None or now - self._reported >= _REMIND_SECONDS:
            self._reported = now
            log.error("the keys stay as they were, revoked ones too, until the file can be read: %s", error)


def _known(entries: Mapping[str, Entry]) -> dict[str, _Known]:
    return {
        entry.id: _Known(
            Identity(f"key:{entry.id}", entry.name, "key", entry.grants, entry.quota), entry.hash, entry.expires
        )
        for entry in entries.values()
        if entry.revoked is None
    }


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp(path)
    except OSError:
        return None
