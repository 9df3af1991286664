"""The gate before every front: who calls, by what was shown, and whether its quota has room. Before a body is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate

from gateway.errors import DuetError, Unauthenticated
from gateway.security.access import OVER_QUOTA, UNAUTHENTICATED, Access, Identity, Notes, Quota
from gateway.security.certificates import Name, Names, fits
from gateway.security.grants import Grants
from gateway.security.keys import Keyring
from gateway.security.quotas import QuotaExceeded, Quotas
from gateway.security.tokens import Tokens, refused

SHOW_ONE = "show who you are: Authorization: Bearer <key or token>, or x-api-key: <key>"
#: Names of callers that are remembered.
_MAX_REMEMBERED = 4096

NO_KEY = "the key is not valid here; ask those who run this gateway for one"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What tokens (or certificates) may do whose name fits ``pattern``."""

    pattern: str
    grants: Grants
    quota: Quota | None


class Callers:
    """Names -> identities, by the first allowance that fits; a name that fits none may do nothing.

    A certificate's name fits patterns of its own kind alone (`gateway.security.certificates.fits`).
    """

    def __init__(self, means: str, allowances: Sequence[Allowance]) -> None:
        self._means = means
        self._allowances = [(re.compile(translate(each.pattern)), each) for each in allowances]
        self._known: dict[str | Name, Identity] = {}

    def identity(self, name: str | Name) -> Identity:
        found = self._known.get(name)
        if found is None:
            found = self._made(name, self._fitting(name))
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            self._known[name] = found
        return found

    def first(self, names: Names) -> Identity:
        """Of the first name that an allowance fits, otherwise of the first."""
        return self.identity(next((name for name in names if self._fitting(name)), names[0]))

    def _made(self, name: str | Name, allowance: Allowance | None) -> Identity:
        text, name_id = (name.text, name.id) if isinstance(name, Name) else (name, f"{self._means}:{name}")
        grants, quota = (allowance.grants, allowance.quota) if allowance else (Grants(()), None)
        return Identity(name_id, text, self._means, grants, quota)

    def _fitting(self, name: str | Name) -> Allowance | None:
        text, kind = (name.text, name.kind) if isinstance(name, Name) else (name, None)
        for pattern, allowance in self._allowances:
            if (kind is None or fits(allowance.pattern, kind)) and pattern.fullmatch(text):
                return allowance
        return None


class Gate:
    """What is not set (keys, tokens, certificates) lets nobody in."""

    def __init__(
        self,
        *,
        quotas: Quotas,
        keys: Keyring | None = None,
        tokens: Tokens | None = None,
        subjects: Callers | None = None,
        certificates: Callers | None = None,
    ) -> None:
        self.quotas = quotas
        self._keys = keys
        self._tokens = tokens
        self._subjects = subjects
        self._certificates = certificates

    @property
    def reads_certificates(self) -> bool:
        return self._certificates is not None

    async def identify(
        self, access: Access, authorization: Sequence[bytes], api_key: Sequence[bytes], certificate: Names = ()
    ) -> None:
        """Fills ``access`` with who calls.

        By the values of the headers or metadata of these names, each as often as it came, and by the certificate's
        names. Raises Unauthenticated, and Unavailable where that cannot be said now.
        """
        try:
            if len(authorization) + len(api_key) > 1:
                raise Unauthenticated(f"{SHOW_ONE}; one of them, once")
            if api_key:
                access.identity = self._of_key(api_key[0])
            else:
                access.identity = await self._identity(authorization, certificate)
        except DuetError:
            access.verdict = UNAUTHENTICATED
            raise

    async def _identity(self, authorization: Sequence[bytes], certificate: Names) -> Identity:
        """A certificate counts where nothing else is shown."""
        if authorization:
            scheme, _, secret = authorization[0].partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthenticated(SHOW_ONE)
            secret = secret.strip(b" ")
            if secret.startswith(b"gw_") or self._tokens is None or self._subjects is None:
                return self._of_key(secret)
            try:
                text = secret.decode("ascii")
            except UnicodeDecodeError:
                raise refused() from None
            return self._subjects.identity(await self._tokens.name(text))
        if certificate and self._certificates is not None:
            return self._certificates.first(certificate)
        raise Unauthenticated(SHOW_ONE)

    def enter(self, access: Access) -> Notes:
        """The request begins; gives what to tell the caller of its rate.

        Raises QuotaExceeded; otherwise call `leave` at the request's end, whatever happens.
        """
        if access.identity.quota is None:
            return ()
        try:
            return self.quotas.enter(access.identity)
        except QuotaExceeded:
            access.verdict = OVER_QUOTA
            raise

    def leave(self, access: Access) -> None:
        if access.identity.quota is not None:
            self.quotas.leave(access.identity, bytes=access.bytes_in - access.bytes_taken)

    def _of_key(self, key: bytes) -> Identity:
        identity = self._keys.identify(key) if self._keys is not None else None
        if identity is None:
            raise Unauthenticated(NO_KEY)
        return identity
