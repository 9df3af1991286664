"""``python -m gateway keys``: makes, lists and revokes API keys."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import time

from gateway.config import ConfigError, Settings, load
from gateway.security.access import Quota
from gateway.security.grants import GrantError, Grants
from gateway.security.keyfile import NAME, Entry, KeyFileError, changing, read_entries
from gateway.security.keys import PEPPER_BYTES, digest, new_key
from gateway.security.secrets import SecretError, read_secret, write_secret

_DAY_SECONDS = 86_400


def main(arguments: Sequence[str]) -> int:
    parsed = _parser().parse_args(arguments)
    try:
        file, pepper = _places(parsed)
        {"make": _make, "list": _list, "revoke": _revoke}[parsed.command](parsed, file, pepper)
    except (ConfigError, KeyFileError, SecretError, GrantError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _places(parsed: argparse.Namespace) -> tuple[Path, Path]:
    """The files of keys and pepper: as the arguments say, otherwise as the settings do."""
    if parsed.file and parsed.pepper:
        return parsed.file, parsed.pepper
    settings: Settings = load(parsed.config, {})
    keys = settings.auth.keys if settings.auth else None
    if keys is None:
        raise ConfigError(f"{parsed.config}: auth.keys is not set; set file and pepper, or give --file and --pepper")
    return parsed.file or keys.file, parsed.pepper or keys.pepper


def _make(parsed: argparse.Namespace, file: Path, pepper_file: Path) -> None:
    """The key is shown here and never again."""
    if not re.fullmatch(NAME, parsed.name):
        raise GrantError(f"{parsed.name!r} is no name; it may have 64 letters, digits, spaces and any of . _ @ / + -")
    quota = Quota(parsed.rate, parsed.burst, parsed.concurrency, parsed.elements_per_day, parsed.bytes_per_day)
    grants = Grants(parsed.grant)
    if not pepper_file.exists():
        pepper_file.parent.mkdir(parents=True, exist_ok=True)
        write_secret(pepper_file, secrets.token_hex(PEPPER_BYTES).encode() + b"\n")
    pepper = read_secret(pepper_file, min_bytes=PEPPER_BYTES)
    now = time()
    expires = now + parsed.days * _DAY_SECONDS if parsed.days else None
    with changing(file) as entries:
        key_id, key = new_key()
        while key_id in entries:
            key_id, key = new_key()
        hashed = digest(pepper, key.encode())
        entries[key_id] = Entry(key_id, parsed.name, hashed, grants, None if quota == Quota() else quota, now, expires)
    print(key)
    print(f"Key {key_id} for {parsed.name}: shown once; only its hash is kept, in {file}.", file=sys.stderr)


def _list(_: argparse.Namespace, file: Path, __: Path) -> None:
    now = time()
    for entry in read_entries(file).values():
        state = "revoked" if entry.revoked else "expired" if entry.expires and entry.expires <= now else "valid"
        until = f" until {_day(entry.expires)}" if entry.expires else ""
        grants = " ".join(entry.grants.entries) or "nothing"
        print(f"{entry.id}  {state}{until}  {entry.name}  since {_day(entry.created)}  {grants}")


def _revoke(parsed: argparse.Namespace, file: Path, _: Path) -> None:
    """The line stays, so that the audit's key ids can be told for ever. Raises KeyFileError for an unknown id."""
    with changing(file) as entries:
        if parsed.id not in entries:
            raise KeyFileError(f"{file}: no key {parsed.id}; `python -m gateway keys list` shows them")
        if entries[parsed.id].revoked is None:
            entries[parsed.id] = replace(entries[parsed.id], revoked=time())
    print(f"Key {parsed.id} is revoked; running gateways know within a second or two.", file=sys.stderr)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway keys", description="API keys: who may call the gateway")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make a key and show it, once")
    make.add_argument("--name", required=True, help="whose it is; the audit names it")
    make.add_argument(
        "--grant",
        action="append",
        default=[],
        metavar="VERBS:MODELS",
        help="what it may do, such as predict,metadata:convnet* (verbs: predict, metadata, admin); may be repeated",
    )
    make.add_argument("--days", type=_positive, help="after which it expires (default: never)")
    make.add_argument("--rate", type=_rate, help="requests a second")
    make.add_argument("--burst", type=_positive, help="requests that may come at once (default: a second's worth)")
    make.add_argument("--concurrency", type=_positive, help="requests at a time")
    make.add_argument("--elements-per-day", type=_positive, help="elements of input tensors a day")
    make.add_argument("--bytes-per-day", type=_positive, help="bytes of request bodies a day")
    commands.add_parser("list", help="show the keys, without their secrets")
    revoke = commands.add_parser("revoke", help="let nobody in by a key any more")
    revoke.add_argument("id", help="the eight characters after gw_")
    for command in commands.choices.values():
        command.add_argument("--config", type=Path, default=Path("duet.yaml"), help="settings (default: %(default)s)")
        command.add_argument("--file", type=Path, help="the file of keys (default: auth.keys.file of the settings)")
        command.add_argument("--pepper", type=Path, help="the file of the pepper (default: auth.keys.pepper)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise ValueError(text)
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e6:
        raise ValueError(text)
    return value
