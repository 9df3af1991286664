"""JSON Web Tokens of one issuer: who bears a valid one is its subject. Rules of RFC 8725 (best current practices)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from time import time
from typing import Any

import jwt

from gateway.errors import Unauthenticated
from gateway.security.jwks import Jwks

MAX_TOKEN_BYTES = 8 << 10
_MAX_NAME = 256
#: Verified tokens that are remembered; checking a signature takes 50 to 100 us.
_MAX_REMEMBERED = 1024
_REQUIRED = ["exp", "iss", "aud"]
_TYPES = ("jwt", "at+jwt", "application/at+jwt")


class Tokens:
    """``time`` is of the epoch. Only ``algorithms`` count, whatever a token says of itself."""

    def __init__(
        self,
        jwks: Jwks,
        *,
        issuer: str,
        audience: str,
        algorithms: Sequence[str],
        name_claim: str = "sub",
        leeway_seconds: float = 60.0,
        time: Callable[[], float] = time,
    ) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._algorithms = frozenset(algorithms)
        self._name_claim = name_claim
        self._leeway = leeway_seconds
        self._time = time
        self._known: dict[bytes, tuple[str, float]] = {}
        self._generation = -1

    async def name(self, token: str) -> str:
        """Whose it is. Raises Unauthenticated, and Unavailable while the issuer's keys cannot be had."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise refused()
        digest = sha256(token.encode()).digest()
        if self._jwks.fresh and self._generation == self._jwks.generation and digest in self._known:
            name, end = self._known[digest]
            if self._time() < end:
                return name
        name, end = await self._verified(token)
        if self._generation != self._jwks.generation or len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
            self._generation = self._jwks.generation
        self._known[digest] = (name, end)
        return name

    async def _verified(self, token: str) -> tuple[str, float]:
        algorithm, key_id = self._header(token)
        key = await self._jwks.key(key_id, algorithm)
        if key is None:
            raise refused()
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                # PyJWT looks at the machine's clock; times are looked at below, by ours.
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise refused() from None
        end = self._end(claims)
        name = claims.get(self._name_claim)
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise refused()
        return name, end

    def _header(self, token: str) -> tuple[str, str | None]:
        """Algorithm and key id, nothing else of which is believed: keys and their addresses come from the settings."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise refused() from None
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        fits = isinstance(algorithm, str) and algorithm in self._algorithms
        fits = fits and (key_id is None or (isinstance(key_id, str) and len(key_id) <= _MAX_NAME))
        fits = fits and isinstance(kind, str) and kind.lower() in _TYPES
        # Extensions that we must understand (RFC 7515, section 4.1.11) are refused by PyJWT.
        if not fits:
            raise refused()
        return str(algorithm), key_id

    def _end(self, claims: dict[str, Any]) -> float:
        """When the token ends, leeway included. Raises Unauthenticated where it has, or has not begun."""
        now = self._time()
        moments = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
        if any(isinstance(moment, bool) or not isinstance(moment, (int, float)) for moment in moments.values()):
            raise refused()
        end = float(min(moments["exp"], 1 << 53)) + self._leeway  # an integer may be too large for a float
        begins = [moments[name] for name in ("nbf", "iat") if name in moments]
        if not now < end or any(not begin <= now + self._leeway for begin in begins):
            raise refused()
        return end


def refused() -> Unauthenticated:
    """Says not why: that would tell a forger what to change."""
    return Unauthenticated("the token is not valid here; get a new one from its issuer")
