"""The settings of a TorchServe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from gateway.servers.settings import ServerSettings, checked_address


class TorchServeSettings(ServerSettings):
    """``endpoint``: its inference address; a name may stand for several addresses, and they may change.

    ``management`` is on the same hosts, and never open to clients. ``key_file`` is where its tokens lie.
    """

    kind: Literal["torchserve"]
    management: str
    key_file: Path | None = None

    @field_validator("endpoint", "management")
    @classmethod
    def _is_address(cls, value: str) -> str:
        url = value.rstrip("/")
        return checked_address(url if url.startswith(("http://", "https://")) else "", url, "http://host:port")

    @model_validator(mode="after")
    def _tls_is_for_https(self) -> TorchServeSettings:
        if any(url.startswith("https://") != (self.tls is not None) for url in (self.endpoint, self.management)):
            raise ValueError("endpoint and management are https:// where tls is set, and http:// where it is not")
        return self

    @model_validator(mode="after")
    def _management_is_on_the_same_host(self) -> TorchServeSettings:
        if urlsplit(self.endpoint).hostname != urlsplit(self.management).hostname:
            raise ValueError("management must be on the host of endpoint: each address has its own")
        return self
