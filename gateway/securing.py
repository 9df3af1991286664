"""Settings -> the gate and what stands behind it, for the composition root."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter

from gateway.backends.base import Backend
from gateway.config import ConfigError
from gateway.logging import LineWriter
from gateway.security.audit import Audit, Decisions, NoAudit, QueuedAudit
from gateway.security.gate import Allowance, Callers, Gate
from gateway.security.grants import Grants
from gateway.security.guard import Guard, Resolver
from gateway.security.keyfile import KeyFileError
from gateway.security.keys import PEPPER_BYTES, Keyring
from gateway.security.ledger import Alone
from gateway.security.quotas import Quotas
from gateway.security.secrets import SecretError, read_secret
from gateway.security.settings import AuditSettings, AuthSettings, Caller, KeysSettings, TokensSettings
from gateway.workers.member import Member

if TYPE_CHECKING:  # the library of signatures is loaded where there are tokens to check
    from gateway.security.jwks import Jwks
    from gateway.security.tokens import Tokens


class Securing:
    """Who may call this gateway. Raises ConfigError where its files cannot be used."""

    def __init__(
        self,
        auth: AuthSettings,
        *,
        registry: CollectorRegistry,
        member: Member | None,
        stdout: Callable[[], LineWriter],
    ) -> None:
        self.quotas = Quotas(member.ledger() if member else Alone())
        self.decisions = Decisions(_audit(auth.audit, registry, stdout), registry=registry)
        self._jwks: Jwks | None = None
        tokens: Tokens | None = None
        if auth.tokens:
            self._jwks, tokens = _tokens(auth.tokens)
        self.gate = Gate(
            quotas=self.quotas,
            keys=_keyring(auth.keys) if auth.keys else None,
            tokens=tokens,
            subjects=Callers("token", _allowances(auth.callers, lambda caller: caller.token)),
            certificates=Callers("certificate", _allowances(auth.callers, lambda caller: caller.certificate))
            if auth.certificates
            else None,
        )

    def guard(self, inner: Backend, router: Resolver, names: Callable[[], Collection[str]]) -> Guard:
        return Guard(inner, router=router, names=names, quotas=self.quotas)

    def start(self) -> None:
        if self._jwks is not None:
            self._jwks.start()

    async def aclose(self) -> None:
        if self._jwks is not None:
            await self._jwks.aclose()
        self.decisions.close()


def _keyring(keys: KeysSettings) -> Keyring:
    try:
        return Keyring(keys.file, pepper=read_secret(keys.pepper, min_bytes=PEPPER_BYTES))
    except (KeyFileError, SecretError) as error:
        raise ConfigError(f"auth.keys: {error}") from error


def _tokens(settings: TokensSettings) -> tuple[Jwks, Tokens]:
    from gateway.security import jwks
    from gateway.security.tokens import Tokens

    if settings.jwks is None:
        fetch = jwks.from_issuer(settings.issuer)
    elif "://" in settings.jwks:
        fetch = jwks.from_url(settings.jwks)
    else:
        fetch = jwks.from_file(Path(settings.jwks))
    keys = jwks.Jwks(fetch)
    return keys, Tokens(
        keys,
        issuer=settings.issuer,
        audience=settings.audience,
        algorithms=settings.algorithms,
        name_claim=settings.name_claim,
        leeway_seconds=settings.leeway_seconds,
    )


def _allowances(callers: Sequence[Caller], pattern: Callable[[Caller], str | None]) -> list[Allowance]:
    found = ((pattern(caller), caller) for caller in callers)
    return [Allowance(text, Grants(caller.grants), caller.quota.quota()) for text, caller in found if text is not None]


def _audit(settings: AuditSettings, registry: CollectorRegistry, stdout: Callable[[], LineWriter]) -> Audit:
    if not settings.enabled:
        return NoAudit()
    dropped = Counter("duet_audit_dropped", "Audit lines that could not be written.", registry=registry)
    if settings.file is None:
        return QueuedAudit(stdout(), dropped=dropped)
    try:
        with open(settings.file, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            return QueuedAudit(LineWriter(stream, on_lost=dropped.inc), dropped=dropped)
    except OSError as error:
        raise ConfigError(f"auth.audit.file: {settings.file}: {error.strerror}") from error
