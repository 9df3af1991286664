"""duet.yaml and the environment -> frozen settings. Every bad value is one clear line.

A value of the file can be overridden by an environment variable: ``DUET__HTTP__PORT=9000`` is ``http: {port: 9000}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

_PREFIX = "DUET__"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ConfigError(Exception):
    """The settings are wrong; the message has one line for each bad value."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Address(_Settings):
    host: str = "127.0.0.1"
    port: Port


class Http(_Settings):
    host: str = "127.0.0.1"
    port: Port = 8000
    max_body_bytes: Annotated[int, Field(gt=0)] = 16 << 20


class Grpc(_Settings):
    host: str = "127.0.0.1"
    port: Port = 8001
    #: Refused before memory is taken for it. Python's clients take 4 MB unless told otherwise.
    max_message_bytes: Annotated[int, Field(gt=0)] = 16 << 20


class TFServingServer(_Settings):
    kind: Literal["tfserving"]
    endpoint: str


class TorchServeServer(_Settings):
    kind: Literal["torchserve"]
    endpoint: str
    management: str
    key_file: Path | None = None

    @field_validator("endpoint", "management")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not value.startswith("http://"):
            raise ValueError("must be an address of the form http://host:port")
        return value.rstrip("/")


Server = Annotated[TFServingServer | TorchServeServer, Field(discriminator="kind")]


class Model(_Settings):
    """``variants`` are names of servers; empty means all of them. ``default`` serves what a client did not pin."""

    variants: tuple[str, ...] = ()
    default: str | None = None
    allow_non_finite: bool = False


class Log(_Settings):
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True


class Settings(_Settings):
    http: Http = Http()
    grpc: Grpc = Grpc()
    admin: Address = Address(port=8002)
    servers: dict[str, Server]
    models: dict[str, Model]
    #: A request without a deadline of its own is answered or failed after this time.
    default_deadline_seconds: Seconds = 30.0
    #: How often the servers are asked which models they have.
    refresh_seconds: Seconds = 1.0
    #: After SIGTERM: how long requests are still accepted while readiness already says no.
    linger_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    #: After that: how long the requests in flight may take.
    drain_seconds: Seconds = 30.0
    log: Log = Log()

    @model_validator(mode="after")
    def _variants_have_servers(self) -> Settings:
        if not self.servers:
            raise ValueError("servers: name at least one")
        for name, model in self.models.items():
            if not name or set("@/:") & set(name):
                raise ValueError(f"models.{name}: a model's name must not be empty or hold any of @ / :")
            for variant in (*model.variants, *([model.default] if model.default else [])):
                if variant not in self.servers:
                    raise ValueError(
                        f"models.{name}: {variant!r} is no server; the servers are {', '.join(self.servers)}"
                    )
            if model.default and model.default not in self.variants(name):
                raise ValueError(f"models.{name}: the default {model.default!r} is not among its variants")
        return self

    def variants(self, model: str) -> tuple[str, ...]:
        return self.models[model].variants or tuple(self.servers)

    def default_variant(self, model: str) -> str:
        return self.models[model].default or self.variants(model)[0]


def load(path: Path, environment: Mapping[str, str]) -> Settings:
    """The settings in ``path`` with what ``environment`` overrides. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping with at least 'servers' and 'models'")
    _override(document, environment)
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_line(entry)}" for entry in error.errors())) from error


def _override(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name.startswith(_PREFIX):
            continue
        *parents, last = name.removeprefix(_PREFIX).lower().split("__")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{name} does not fit: {parent} is a single value")
        place[last] = value


def _line(entry: Any) -> str:
    where = ".".join(str(part) for part in entry["loc"])
    message = entry["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
