"""What the settings of every server have, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerTls(_Settings):
    """Of a server that is called: ``ca`` in place of the system's authorities, ``name`` in place of the host's name.

    ``cert`` and ``key`` are shown to it.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _is_a_pair(self) -> ServerTls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key come together")
        return self


class ServerSettings(_Settings):
    """``endpoint``: the server's address; a name may stand for several addresses, and they may change.

    Each kind has a class of its own, with its name as the only value of ``kind``.
    """

    kind: str
    endpoint: str
    tls: ServerTls | None = None

    @property
    def host(self) -> str:
        return str(self._parts().hostname)

    @property
    def port(self) -> int:
        return int(self._parts().port or 0)

    @property
    def scheme(self) -> str:
        """What stands before ``://``; empty where there is no scheme."""
        return self._parts().scheme

    def _parts(self) -> SplitResult:
        return urlsplit(self.endpoint if "//" in self.endpoint else f"//{self.endpoint}")


def checked_address(url: str, value: str, form: str) -> str:
    """``value``, if ``url`` has a host, a port and no path. Raises ValueError."""
    try:
        parts = urlsplit(url)
        fits = bool(parts.hostname and parts.port and not parts.path)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"must be an address of the form {form}")
    return value
