"""An issuer's public keys (RFC 7517), fetched before they are needed and kept through its outages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import jwt
import orjson

from gateway.errors import Unavailable
from gateway.security.fetching import FetchError, get
from gateway.security.settings import is_trusted_url

log = logging.getLogger("duet.security")

#: Age from which keys are fetched anew, in the background.
FRESH_SECONDS = 600.0
#: Age up to which they are used while the issuer cannot be reached.
STALE_SECONDS = 86_400.0
#: Between two fetches, whatever key ids clients make up.
_BETWEEN_SECONDS = 30.0
#: The same while there are no keys at all.
_BETWEEN_FIRST_SECONDS = 2.0
#: For one document, from its connection to its last byte.
FETCH_SECONDS = 5.0
#: How long one caller waits for keys that are being fetched; what is known serves others meanwhile.
WAIT_SECONDS = 5.0
_MAX_BYTES = 256 << 10
_MAX_KEYS = 100
_MIN_RSA_BITS = 2048
_FAMILIES = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}

Fetch = Callable[[], Awaitable[bytes]]


class JwksError(Exception):
    """The keys cannot be had; the message is for the log."""


class Jwks:
    """``generation`` changes with the keys. ``clock`` only measures."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str | None, list[jwt.PyJWK]] = {}
        self._content: bytes | None = None
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self.generation = 0

    @property
    def fresh(self) -> bool:
        return self._fetched is not None and self._clock() - self._fetched < FRESH_SECONDS

    async def key(self, key_id: str | None, algorithm: str) -> Any | None:
        """The key for a token that says so of itself; None where there is none. Raises Unavailable.

        A token without key id is for the only key of its algorithm.
        """
        if self._fetched is None or self._age() >= STALE_SECONDS:
            await self._refresh()
            if self._fetched is None or self._age() >= STALE_SECONDS:
                raise Unavailable("tokens cannot be checked now: their issuer cannot be reached", retry_after_seconds=5)
        elif not self.fresh:
            self._begin()
        found = self._found(key_id, algorithm)
        if found is None and key_id is not None:
            await self._refresh()
            found = self._found(key_id, algorithm)
        return found

    def start(self) -> None:
        """Fetches in the background, so that the first caller need not wait."""
        self._begin()

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _age(self) -> float:
        return self._clock() - self._fetched if self._fetched is not None else float("inf")

    def _found(self, key_id: str | None, algorithm: str) -> Any | None:
        keys = (
            self._keys.get(key_id, []) if key_id is not None else [key for keys in self._keys.values() for key in keys]
        )
        fitting = [key for key in keys if key.algorithm_name == algorithm]
        return fitting[0].key if len(fitting) == 1 else None

    def _begin(self) -> asyncio.Task[None] | None:
        """One fetch at a time, and not sooner than `_BETWEEN_SECONDS` after the last."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._clock()
        between = _BETWEEN_SECONDS if self._keys else _BETWEEN_FIRST_SECONDS
        if self._tried is not None and now - self._tried < between:
            return None
        self._tried = now
        self._fetching = asyncio.create_task(self._load())
        return self._fetching

    async def _refresh(self) -> None:
        task = self._begin()
        if task is not None:
            # One caller's end must not end what others wait for.
            await asyncio.wait([task], timeout=WAIT_SECONDS)

    async def _load(self) -> None:
        try:
            content = await self._fetch()
            keys = _read(content) if content != self._content else self._keys
        except JwksError as error:
            log.warning("the keys of the tokens' issuer cannot be had: %s", error)
            return
        except Exception:
            log.exception("the keys of the tokens' issuer cannot be had")
            return
        self._fetched = self._clock()
        if content != self._content:
            self._content, self._keys = content, keys
            self.generation += 1
            log.info("the tokens' issuer has %s keys", sum(map(len, keys.values())))


def _read(content: bytes) -> dict[str | None, list[jwt.PyJWK]]:
    """By key id. Keys that are not for signatures, or too weak, are left out. Raises JwksError."""
    try:
        entries = orjson.loads(content)["keys"]
        if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
            raise JwksError(f"it must have a list of at most {_MAX_KEYS} keys")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise JwksError("it is no key set") from None
    found: dict[str | None, list[jwt.PyJWK]] = {}
    for entry in entries:
        key = _key(entry)
        if key is not None:
            found.setdefault(key.key_id, []).append(key)
    if not found:
        raise JwksError("none of its keys can check signatures of RS256, ES256 or EdDSA")
    return found


def _key(entry: Any) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or "k" in entry or "d" in entry:
        return None
    algorithm = next((name for name, family in _FAMILIES.items() if family == entry.get("kty")), None)
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    if (algorithm == "ES256" and entry.get("crv") != "P-256") or not isinstance(entry.get("kid"), (str, type(None))):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if algorithm == "RS256" and key.key.key_size < _MIN_RSA_BITS:
        return None
    return key


def from_file(path: Path) -> Fetch:
    async def fetch() -> bytes:
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise JwksError(f"{path}: {error.strerror}") from error

    return fetch


def from_url(url: str) -> Fetch:
    async def fetch() -> bytes:
        return await asyncio.to_thread(_get, url)

    return fetch


def from_issuer(issuer: str) -> Fetch:
    """OpenID Connect Discovery 1.0, section 4: the issuer says where its keys are, and who it is."""

    async def fetch() -> bytes:
        told = await asyncio.to_thread(_get, issuer.rstrip("/") + "/.well-known/openid-configuration")
        try:
            document = orjson.loads(told)
            url, name = document["jwks_uri"], document["issuer"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise JwksError("its openid-configuration names no jwks_uri") from None
        if name != issuer or not isinstance(url, str) or not is_trusted_url(url):
            raise JwksError("its openid-configuration is of another issuer, or its jwks_uri is not https")
        return await asyncio.to_thread(_get, url)

    return fetch


def _get(url: str) -> bytes:
    try:
        return get(url, seconds=FETCH_SECONDS, max_bytes=_MAX_BYTES)
    except FetchError as error:
        raise JwksError(str(error)) from None
