"""Where the gateway and the servers are, read from the gateway's own configuration and from what started them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from gateway.config import ConfigError, Settings, load
from gateway.servers.torchserve.settings import TorchServeSettings
from loadtest.failures import LoadFailed

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=2):
                return True
        except OSError:
            return False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Stack:
    """One gateway and the servers behind it. ``processes`` are the leaders' ids where they run on this machine."""

    config: Path
    settings: Settings
    processes: Mapping[str, int]

    def gateway(self, transport: str) -> Address:
        at = self.settings.http if transport == "http" else self.settings.grpc
        return Address(LOOPBACK if at.host in ("0.0.0.0", "::") else at.host, at.port)  # noqa: S104 - compared

    def server(self, variant: str) -> Address:
        endpoint = self.settings.servers[variant].endpoint
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        return Address(parts.hostname or LOOPBACK, parts.port or 0)

    def kind(self, variant: str) -> str:
        return self.settings.servers[variant].kind

    def authorization(self, variant: str, key: str = "inference") -> dict[str, str]:
        """The header with TorchServe's token, which lies in its key file. Raises LoadFailed."""
        server = self.settings.servers[variant]
        if not isinstance(server, TorchServeSettings) or server.key_file is None:
            return {}
        return token_of(server.key_file, key)

    def check_answers(self, variants: tuple[str, ...], transports: set[str], *, direct: bool) -> None:
        """Raises LoadFailed naming what does not answer."""
        for transport in sorted(transports):
            address = self.gateway(transport)
            if not address.answers():
                raise LoadFailed(f"no gateway answers at {address}; start it with make up, or give its --config")
        for variant in variants if direct else ():
            if variant not in self.settings.servers:
                raise LoadFailed(f"{self.config} has no server {variant!r}")
            if not self.server(variant).answers():
                raise LoadFailed(f"no {variant} server answers at {self.server(variant)}; start it with make up")

    def family(self) -> list[psutil.Process]:
        """Every process of gateway and servers that runs here."""
        found = []
        for pid in self.processes.values():
            try:
                leader = psutil.Process(pid)
                found += [leader, *leader.children(recursive=True)]
            except psutil.Error:
                continue
        return found


def token_of(key_file: Path, key: str = "inference") -> dict[str, str]:
    """Raises LoadFailed."""
    try:
        return {"Authorization": f"Bearer {json.loads(key_file.read_text())[key]['key']}"}
    except (OSError, ValueError, KeyError) as error:
        raise LoadFailed(f"no token in {key_file} ({error}); is TorchServe running?") from None


def find(config: Path) -> Stack:
    """Raises LoadFailed where there is no such configuration, or it is none."""
    if not config.is_file():
        raise LoadFailed(f"{config} is not there; start everything with make up, or give the gateway's file: --config")
    try:
        settings = load(config, os.environ)
    except ConfigError as error:
        raise LoadFailed(str(error).splitlines()[0]) from None
    return Stack(config, settings, _processes(config.with_name("run.json")))


def _processes(record: Path) -> dict[str, int]:
    try:
        children = json.loads(record.read_text())["children"]
        return {child["name"]: child["pid"] for child in children if psutil.pid_exists(child["pid"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
