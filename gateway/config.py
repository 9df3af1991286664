"""duet.yaml and the environment -> frozen settings. Every bad value is one clear line.

A value of the file can be overridden by an environment variable: ``DUET__HTTP__PORT=9000`` is ``http: {port: 9000}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.core.modelref import is_model_name
from gateway.layers.settings import (
    Balance,
    Batching,
    Bounds,
    Breaker,
    Cache,
    Hedge,
    Limit,
    Retry,
    Seconds,
    Validation,
    followed,
)
from gateway.security import settings as security
from gateway.servers.kinds import SERVERS, kind_of, settings_of
from gateway.servers.settings import ServerSettings

_PREFIX = "DUET__"

Port = Annotated[int, Field(ge=0, le=65535)]


class ConfigError(Exception):
    """The settings are wrong; the message has one line for each bad value."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Settings):
    """Of a listener: PEM files, which may be replaced while it listens. With ``client_ca``, clients must show one of

    its certificates.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def _are_hosts(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for value in values or ():
        if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9._-]{1,253}", value):
            raise ValueError(
                f"{value!r} is no name of a host: write duet.example.org without scheme and port, "
                "*.example.org for all names below it, or * for every name"
            )
    return values


#: Names in the Host header by which a port may be called: see `gateway.rest.fence.Hosts`, which knows the default.
AllowedHosts = Annotated[tuple[str, ...] | None, AfterValidator(_are_hosts)]


class Address(_Settings):
    host: str = "127.0.0.1"
    port: Port
    allowed_hosts: AllowedHosts = None
    tls: Tls | None = None


class HttpShares(_Settings):
    """How much of the room for bodies one holds: always a share of what the others leave, so that all get some.

    ``connections`` is the part of them that one address may have, and at least 64.

    A caller is its key, token or certificate, and without one its address (an IPv6 subnet of 64 bits). Behind a proxy,
    callers without keys have one address: name it in ``trusted_proxies``, or set ``caller`` and
    ``connections`` to 1 there.

    A caller at its share gets 503 and ``retry-after: 1``: its next bodies do not wait, since they would hold what they
    have sent. By default one caller holds 64 MiB at most, which is three bodies of 16 MiB at a time. Raise ``caller``
    for a client that sends more of them at once.
    """

    caller: Annotated[float, Field(gt=0, le=1)] = 0.25
    connection: Annotated[float, Field(gt=0, le=1)] = 0.5
    connections: Annotated[float, Field(gt=0, le=1)] = 0.25
    #: Kept for bodies of up to ``small_bytes``.
    small: Annotated[float, Field(ge=0, lt=1)] = 0.125
    small_bytes: Annotated[int, Field(ge=0)] = 64 << 10


class Http(_Settings):
    host: str = "127.0.0.1"
    port: Port = 8000
    #: Without it: the names of loopback if ``host`` is loopback, every name otherwise. IP addresses always pass.
    allowed_hosts: AllowedHosts = None
    max_body_bytes: Annotated[int, Field(gt=0)] = 16 << 20
    max_url_bytes: Annotated[int, Field(ge=64, le=65_536)] = 2 << 10
    max_header_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 32 << 10
    max_headers: Annotated[int, Field(ge=16, le=10_000)] = 100
    #: Websites whose pages may call the gateway from a browser, as ``https://example.org``. None by default.
    cors_origins: tuple[str, ...] = ()
    tls: Tls | None = None
    #: Fewer where the limit of open files allows no more; one of the caller that has most makes way for a new one.
    max_connections: Annotated[int, Field(ge=1)] = 16_384
    #: For a request's head, from its first byte on.
    headers_seconds: Seconds = 5.0
    #: For its body, and longer while it comes at this rate, taken over the last ``rate_seconds`` or a little more. A
    #: slower body is given up as soon as its room is needed.
    body_seconds: Seconds = 30.0
    bytes_per_second: Annotated[int, Field(ge=1)] = 10_000
    rate_seconds: Seconds = 5.0
    #: Of the room for bodies, ``max_bytes_in_flight``.
    shares: HttpShares = HttpShares()
    #: An answer must get on at that rate within this time.
    stall_seconds: Seconds = 30.0
    #: Between requests: above the usual 60 s of load balancers, so that they and not we close first.
    idle_seconds: Seconds = 75.0

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", value):
                raise ValueError(f"{value!r} is no origin of the form https://host or https://host:port")
        return values


class Keepalive(_Settings):
    """Pings on gRPC's connections.

    A client may ping every ``min_ping_seconds``, and without a call only with ``permit_without_calls``. One that pings
    more often ``max_ping_strikes`` times is sent away (GOAWAY, ENHANCE_YOUR_CALM). The gateway itself pings a client
    that has been silent for ``time_seconds``, and gives it up where no answer comes within ``timeout_seconds``.
    The transport ``native`` neither counts pings nor sends any.
    """

    #: Half of what gRPC's clients take at least (10 s), so that one that is a little early is no offender.
    min_ping_seconds: Annotated[float, Field(ge=0.01, le=7200)] = 5.0
    permit_without_calls: bool = True
    max_ping_strikes: Annotated[int, Field(ge=1, le=1000)] = 2
    time_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    timeout_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 20.0


class Grpc(_Settings):
    host: str = "127.0.0.1"
    port: Port = 8001
    #: Refused before memory is taken for it. Python's clients take 4 MB unless told otherwise.
    max_message_bytes: Annotated[int, Field(gt=0)] = 16 << 20
    tls: Tls | None = None
    #: Calls at a time on one connection, and over all of them. Health checks are not among the latter.
    max_streams: Annotated[int, Field(ge=1, le=65_536)] = 100
    max_calls: Annotated[int, Field(ge=1, le=1 << 20)] = 4096
    #: Calls of ``Health/Watch``, which last; they are counted by themselves.
    max_watches: Annotated[int, Field(ge=1, le=1 << 20)] = 512
    #: The part of the calls, the watches and the messages on their way in that one caller may hold: a key, a token's
    #: subject or a certificate; otherwise an address, in IPv6 its /64. 1 where all callers come through one proxy that
    #: is not among ``trusted_proxies``.
    caller_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    #: For a call's message to come as a whole. Those that are on their way have half of ``max_bytes_in_flight``, and
    #: each is taken for the longest one (``max_message_bytes``); more of them wait. Messages of open streams have as
    #: much again, by the bytes that came; streams beyond that end.
    receive_seconds: Seconds = 30.0
    #: For the next message of a stream with nothing in flight.
    stream_idle_seconds: Seconds = 300.0
    #: One more is closed. The newest of the address that has most makes way.
    max_connections: Annotated[int, Field(ge=1)] = 4096
    #: The part of the connections that one address may have, in IPv6 its /64, and at least 64. 1 where all callers come
    #: through one proxy that is not among ``trusted_proxies``; those that are have no share.
    connection_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    #: For an answer to be read, and longer while that goes on at this rate; the connection is closed then. All answers
    #: that are not read together are bounded by ``max_bytes_in_flight``.
    stall_seconds: Seconds = 30.0
    bytes_per_second: Annotated[int, Field(ge=1)] = 10_000
    #: ``native`` costs a quarter of the processor time, but its message limit does not protect memory: for trusted
    #: clients only.
    transport: Literal["grpcio", "native"] = "grpcio"
    keepalive: Keepalive = Keepalive()
    #: Whether the services describe themselves to clients without stubs (grpcurl, Postman). With keys on, it takes one.
    reflection: bool = False

    @field_validator("transport")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        if value == "native" and find_spec("pygrpc_native") is None:
            raise ValueError("the transport native needs a package: pip install 'duet-serving[native]'")
        return value

    @model_validator(mode="after")
    def _can_speak_tls(self) -> Grpc:
        if self.tls is not None and self.transport == "native":
            raise ValueError("the transport native has no TLS; use grpcio")
        return self


#: Of the kind that its ``kind`` names.
Server = Annotated[SerializeAsAny[ServerSettings], BeforeValidator(settings_of)]


class Model(_Settings):
    """``variants`` are names of servers; empty means all of them. ``default`` serves what a client did not pin.

    ``opaque``: its handler in TorchServe is the user's own. Bodies are passed on as they are, and so are its answers;
    only TorchServe's dialect can call it.
    What ``batching``, ``limit``, ``retry``, ``breaker`` and ``hedge`` leave out follows the settings of that name for
    all models. ``batching.rows`` says whether a row's answer depends on the rows beside it. Without ``cache`` nothing
    is kept.
    """

    variants: tuple[str, ...] = ()
    default: str | None = None
    allow_non_finite: bool = False
    opaque: bool = False
    batching: Batching | None = None
    cache: Cache | None = None
    #: In place of ``default_deadline_seconds``.
    deadline_seconds: Seconds | None = None
    limit: Limit | None = None
    retry: Retry | None = None
    breaker: Breaker | None = None
    hedge: Hedge | None = None
    #: Whether NaN and infinities in an answer are 502.
    finite_outputs: bool = False
    #: Every output has a row for each row of the inputs: an answer with more or fewer of them is 502.
    outputs_by_row: bool = False


class TrustedProxies(_Settings):
    """Proxies in ``networks`` are believed when they say in ``header`` whom they call for.

    Each must add the address that it sees at the header's end, or write the header anew. It counts for shares alone.
    """

    networks: Annotated[tuple[IPvAnyNetwork, ...], Field(min_length=1)]
    header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"

    @field_validator("networks")
    @classmethod
    def _are_not_everybody(cls, values: tuple[IPvAnyNetwork, ...]) -> tuple[IPvAnyNetwork, ...]:
        for value in values:
            if str(value).endswith("/0"):
                raise ValueError(f"{value} trusts everybody: name the networks of the proxies alone")
        return values


class Log(_Settings):
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True


class Settings(_Settings):
    #: Who may call. Without it nobody serves: see `require_auth`.
    auth: security.AuthSettings | None = None
    #: Processes that share the ports.
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    http: Http = Http()
    grpc: Grpc = Grpc()
    #: Of the HTTP port and of gRPC. Without it a proxy's clients are one caller, unless they show keys.
    trusted_proxies: TrustedProxies | None = None
    admin: Address = Address(port=8002)
    servers: dict[str, Server]
    #: Models with settings of their own, and those of servers that cannot list theirs.
    models: dict[str, Model] = {}
    #: Whether what the servers list is served too, though ``models`` does not name it.
    discover: bool = True
    #: For all models; a model's own settings replace single fields.
    batching: Batching = Batching()
    #: A request without a deadline of its own is answered or failed after this time.
    default_deadline_seconds: Seconds = 30.0
    #: These are for all models as well; see `Model`.
    limit: Limit = Limit()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    balance: Balance = Balance()
    validation: Validation = Validation()
    hedge: Hedge = Hedge()
    bounds: Bounds = Bounds()
    #: Of requests in flight, over all models: 256 MiB.
    max_bytes_in_flight: Annotated[int, Field(gt=0)] = 256 << 20
    #: How often the servers are asked which models they have.
    refresh_seconds: Seconds = 1.0
    #: After SIGTERM: how long requests are still accepted while readiness already says no.
    linger_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    #: After that: how long the requests in flight may take.
    drain_seconds: Seconds = 30.0
    #: After the event loop has stood still for this time, /healthz says 503.
    max_lag_seconds: Seconds = 5.0
    log: Log = Log()

    @model_validator(mode="after")
    def _variants_have_servers(self) -> Settings:
        if not self.servers:
            raise ValueError("servers: name at least one")
        self._names_servers(self.batching, "")
        for name, model in self.models.items():
            if not is_model_name(name):
                raise ValueError(f"models.{name}: a model's name must not be empty or hold any of @ / :")
            if model.opaque and model.cache is not None:
                raise ValueError(f"models.{name}: an opaque model's answers cannot be kept; leave out cache")
            for variant in (*model.variants, *([model.default] if model.default else [])):
                if variant not in self.servers:
                    raise ValueError(
                        f"models.{name}: {variant!r} is no server; the servers are {', '.join(self.servers)}"
                    )
            self._names_servers(model.batching, f"models.{name}.")
            if model.default and model.default not in self.variants(name):
                raise ValueError(f"models.{name}: the default {model.default!r} is not among its variants")
            if model.opaque and [kind_of(self.servers[v]).takes_opaque for v in self.variants(name)] != [True]:
                able = " or ".join(kind.title for kind in SERVERS if kind.takes_opaque)
                raise ValueError(f"models.{name}: opaque needs one {able} server; name it alone in variants")
        return self

    def batching_of(self, model: str) -> Batching:
        """What holds for one model."""
        own = self.models.get(model)
        return followed(own.batching if own else None, self.batching)

    def _names_servers(self, batching: Batching | None, of: str) -> None:
        for variant in batching.rows if batching and isinstance(batching.rows, dict) else ():
            if variant not in self.servers:
                raise ValueError(
                    f"{of}batching.rows: {variant!r} is no server; the servers are {', '.join(self.servers)}"
                )

    def variants(self, model: str) -> tuple[str, ...]:
        """The names of the servers that may serve the model; of an opaque one, those that can."""
        opaque = self.models[model].opaque
        able = (name for name, entry in self.servers.items() if not opaque or kind_of(entry).takes_opaque)
        return self.models[model].variants or tuple(able)

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
        raise ConfigError(f"{path} must hold a mapping with at least 'servers'")
    _override(document, environment)
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_line(entry)}" for entry in error.errors())) from error


def require_auth(settings: Settings) -> None:
    """Raises ConfigError where a gateway with these settings would be open to whom nobody has let in."""
    fault = security.fault(settings.auth, (settings.http.host, settings.grpc.host))
    if fault is not None:
        raise ConfigError(fault)


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
