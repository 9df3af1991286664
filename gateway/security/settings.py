"""The part ``auth`` of duet.yaml: who may call, what, and how much."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gateway.security.keyfile import GrantList, QuotaSettings

Algorithm = Literal["RS256", "ES256", "EdDSA"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeysSettings(_Part):
    """``file`` is what `python -m gateway keys` writes; ``pepper`` holds the secret that hashes them."""

    file: Path
    pepper: Path


class TokensSettings(_Part):
    """Tokens of one issuer (OpenID Connect). ``jwks`` is where its keys are: a URL, or the path of a file.

    Without it, the issuer's ``/.well-known/openid-configuration`` tells. ``name_claim`` is what names the caller.
    """

    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    jwks: str | None = None
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
    name_claim: str = "sub"
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 60.0

    @model_validator(mode="after")
    def _is_trustworthy(self) -> TokensSettings:
        source = self.jwks if self.jwks is not None else self.issuer
        if "://" in source and not is_trusted_url(source):
            raise ValueError(f"{source}: keys come over https; plain http is for loopback only")
        if self.jwks is None and "://" not in source:
            raise ValueError("issuer is no URL: say in jwks where its keys are")
        return self


def is_trusted_url(url: str) -> bool:
    """https anywhere, http on loopback."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


class Caller(_Part):
    """What those may do whose token or certificate bears a name like this (``*`` and ``?`` stand for others)."""

    token: str | None = None
    certificate: str | None = None
    grants: GrantList = ()
    quota: QuotaSettings = QuotaSettings()

    @model_validator(mode="after")
    def _is_one(self) -> Caller:
        if (self.token is None) == (self.certificate is None):
            raise ValueError("name a token or a certificate")
        return self


class AuditSettings(_Part):
    """One JSON line for each decision, to ``file``; without it to standard output."""

    enabled: bool = True
    file: Path | None = None


class AuthSettings(_Part):
    """``mode: off`` lets everybody do everything, and is for loopback unless ``allow_public`` says otherwise.

    Of ``callers``, which say what tokens and certificates may do, the first that fits counts.
    """

    mode: Literal["on", "off"] = "on"
    allow_public: bool = False
    keys: KeysSettings | None = None
    tokens: TokensSettings | None = None
    certificates: bool = False
    callers: tuple[Caller, ...] = ()
    audit: AuditSettings = AuditSettings()

    @field_validator("mode", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """YAML takes on and off for true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _lets_somebody_in(self) -> AuthSettings:
        if self.mode == "on" and not (self.keys or self.tokens or self.certificates):
            raise ValueError("nobody could call: set keys, tokens or certificates, or mode: off")
        return self


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def fault(auth: AuthSettings | None, hosts: tuple[str, ...]) -> str | None:
    """Why a gateway on these addresses must not start so, and what to set; None where it may."""
    public = next((host for host in hosts if not is_loopback(host)), None)
    if auth is None:
        where = f"{public} is open to others" if public else "nothing says who may call"
        off = "" if public else "; mode: off serves this machine without keys"
        return (
            f"auth: {where}; set auth: {{keys: {{file: keys.json, pepper: pepper}}}} "
            f"and make a key with `python -m gateway keys make`{off}"
        )
    if auth.mode == "off" and public and not auth.allow_public:
        return f"auth: mode is off, but {public} is open to others; set keys, or allow_public: true to mean it"
    return None
