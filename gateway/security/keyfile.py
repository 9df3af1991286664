"""The file of keys: who has one, what it may do, and the HMAC of each; never a key itself."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gateway.security.access import Quota
from gateway.security.grants import NO_GRANTS, Grants
from gateway.security.secrets import write_secret

#: Names go into the audit.
NAME = r"[A-Za-z0-9._@/+ -]{1,64}"

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1e6)]


class KeyFileError(Exception):
    """The file cannot be used; the message is one line."""


def _readable_grants(entries: tuple[str, ...]) -> tuple[str, ...]:
    Grants(entries)
    return entries


GrantList = Annotated[tuple[str, ...], AfterValidator(_readable_grants)]


class QuotaSettings(BaseModel):
    """As `gateway.security.access.Quota` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_second: Rate | None = None
    burst: Positive | None = None
    concurrency: Positive | None = None
    elements_per_day: Positive | None = None
    bytes_per_day: Positive | None = None

    def quota(self) -> Quota | None:
        """None where nothing is limited."""
        quota = Quota(**self.model_dump())
        return None if quota == Quota() else quota


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    grants: GrantList = ()
    quota: QuotaSettings = QuotaSettings()
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[_Line]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key without its secret. Times are of the epoch, in seconds; ``hash`` is 32 bytes."""

    id: str
    name: str
    hash: bytes
    grants: Grants = NO_GRANTS
    quota: Quota | None = None
    created: float = 0.0
    expires: float | None = None
    revoked: float | None = None


def read_entries(path: Path) -> dict[str, Entry]:
    """By id. Raises KeyFileError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; `python -m gateway keys make` makes the first") from error
    try:
        lines = _File.model_validate_json(content).keys
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise KeyFileError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None
    found = {line.id: _entry(line) for line in lines}
    if len(found) != len(lines):
        raise KeyFileError(f"{path}: an id is there twice; remove one of the two")
    return found


@contextmanager
def changing(path: Path) -> Iterator[dict[str, Entry]]:
    """The entries, which are written back at the end; one program at a time. Raises KeyFileError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = read_entries(path) if path.exists() else {}
        yield entries
        write_secret(path, _written(entries))


def _written(entries: Mapping[str, Entry]) -> bytes:
    lines = [
        {
            "id": entry.id,
            "name": entry.name,
            "hash": entry.hash.hex(),
            "grants": entry.grants.entries,
            "quota": {key: value for key, value in asdict(entry.quota).items() if value} if entry.quota else {},
            "created": _date(entry.created),
            "expires": _date(entry.expires),
            "revoked": _date(entry.revoked),
        }
        for entry in entries.values()
    ]
    return orjson.dumps({"keys": lines}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _entry(line: _Line) -> Entry:
    return Entry(
        line.id,
        line.name,
        bytes.fromhex(line.hash),
        Grants(line.grants),
        line.quota.quota(),
        _seconds(line.created) or 0.0,
        _seconds(line.expires),
        _seconds(line.revoked),
    )


def _seconds(moment: datetime | None) -> float | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
