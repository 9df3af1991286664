"""The key of a gateway that is open to other machines: made once for each run folder, for who may read its files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from serving.failures import Failure


@dataclass(frozen=True, slots=True)
class LocalKey:
    """``key`` lies in ``file`` too; ``settings`` are the gateway's ``auth``."""

    key: str
    file: Path
    settings: dict[str, Any]


#: What a gateway for this machine alone is told: everybody on it may call.
OPEN: dict[str, Any] = {"mode": "off"}


def bearing(key: LocalKey | None) -> dict[str, str]:
    """The headers of a request."""
    return {"Authorization": f"Bearer {key.key}"} if key else {}


def needs_key(host: str) -> bool:
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def local_key(folder: Path, *options: str) -> LocalKey:
    """An earlier run's key, or a new one that may do everything, with ``options`` of `keys make`. Raises Failure."""
    keys, pepper, file = folder / "keys.json", folder / "pepper", folder / "key"
    if not (keys.exists() and pepper.exists() and file.exists()):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "gateway", "keys", "make", f"--file={keys}", f"--pepper={pepper}"]
        command += ["--name=serving up", "--grant=predict,metadata,admin:*", *options]
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - our own
        if made.returncode != 0:
            raise Failure(f"no key could be made: {made.stderr.strip()}")
        file.touch(mode=0o600)
        file.write_text(made.stdout)
    settings = {"keys": {"file": str(keys), "pepper": str(pepper)}}
    return LocalKey(file.read_text().strip(), file, settings)
