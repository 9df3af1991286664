"""The key that `serving up` makes where it listens for other machines too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.security.keys import Keyring
from gateway.security.secrets import read_secret
from serving.localkey import bearing, local_key, needs_key
from tests.gateway.conftest import start_gateway


@pytest.mark.parametrize(
    ("host", "needs"),
    [("127.0.0.1", False), ("127.1.2.3", False), ("::1", False), ("localhost", False)]
    + [(host, True) for host in ("0.0.0.0", "::", "192.168.1.2", "gateway.example.com")],
)
def test_only_this_machine_needs_no_key(host: str, needs: bool) -> None:
    assert needs_key(host) == needs


def test_a_key_is_made_once_and_lets_its_bearer_in(tmp_path: Path) -> None:
    key = local_key(tmp_path / "auth")
    assert local_key(tmp_path / "auth") == key
    assert key.file.read_text().strip() == key.key
    assert key.file.stat().st_mode & 0o077 == 0
    identity = Keyring(
        Path(key.settings["keys"]["file"]), pepper=read_secret(Path(key.settings["keys"]["pepper"]), min_bytes=32)
    ).identify(key.key.encode())
    assert identity is not None
    settings: dict[str, Any] = {"servers": {"t": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}}}
    gateway = start_gateway({**settings, "auth": key.settings}, tmp_path)
    try:
        assert gateway.client.get("/v2/models").status_code == 401
        assert gateway.client.get("/v2/models", headers=bearing(key)).status_code == 200
    finally:
        gateway.stop()


def test_without_a_key_nothing_is_shown() -> None:
    assert bearing(None) == {}
