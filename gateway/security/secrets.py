"""Secrets from files: never from arguments or the environment, where others can read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class SecretError(Exception):
    """The file is not fit to hold a secret; the message says what to do, and nothing of what is in it."""


def read_secret(path: Path, *, min_bytes: int) -> bytes:
    """The content without white space around it. Raises SecretError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(64 << 10).strip()
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}; `python -m gateway keys make` makes it") from error
    if mode & stat.S_IROTH:
        raise SecretError(f"{path}: everybody can read it; run chmod o-r {path}")
    if len(content) < min_bytes:
        raise SecretError(f"{path}: must hold at least {min_bytes} bytes; delete it and let `gateway keys` make one")
    return content


def write_secret(path: Path, content: bytes) -> None:
    """Makes the file, for its owner's eyes only, whole or not at all; it takes the place of one that is there.

    The owner, group and mode of that one are kept: an administrator may change what a gateway of another user reads.
    Raises OSError where they cannot be, with the file as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            _keep_owner(path, file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _keep_owner(path: Path, descriptor: int) -> None:
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    mine = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
