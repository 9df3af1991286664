from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.servers.torchserve.keys import Keys

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def write(path: Path, key: str, expires: str) -> None:
    entry = {"key": key, "expiration time": expires}
    path.write_text(json.dumps({"management": entry, "inference": entry, "API": {"key": "api"}}))


def test_keys_become_header_lines(tmp_path: Path) -> None:
    write(tmp_path / "k", "abc", "2026-11-01T13:00:00Z")
    keys = Keys(tmp_path / "k", now=lambda: NOW)
    keys.reread()
    assert keys.inference == keys.management == "Authorization: Bearer abc\r\n"
    assert keys.renewal == "Authorization: Bearer api\r\n"


def test_renewal_is_due_at_half_of_the_lifetime(tmp_path: Path) -> None:
    write(tmp_path / "k", "abc", "2026-11-01T13:00:00.123456789Z")
    now = NOW
    keys = Keys(tmp_path / "k", now=lambda: now)
    keys.reread()
    now = NOW + timedelta(minutes=29)
    assert not keys.due_for_renewal()
    now = NOW + timedelta(minutes=31)
    assert keys.due_for_renewal()


@pytest.mark.parametrize("age", [timedelta(minutes=61), timedelta(minutes=60, seconds=-1)])
def test_keys_that_are_old_when_they_are_read_are_renewed(tmp_path: Path, age: timedelta) -> None:
    """A gateway may start long after TorchServe did."""
    write(tmp_path / "k", "abc", "2026-11-01T13:00:00Z")
    now = NOW + age
    keys = Keys(tmp_path / "k", now=lambda: now)
    keys.reread()
    now += timedelta(seconds=0.5)
    assert keys.due_for_renewal()


def test_without_a_file_no_token_is_sent() -> None:
    keys = Keys(None)
    keys.reread()
    assert keys.inference == keys.management == keys.renewal == ""
    assert not keys.due_for_renewal()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"inference": 3}', '{"inference": {"key": "a\\r\\nX: y"}}'])
def test_a_file_that_makes_no_sense_gives_no_line(tmp_path: Path, text: str) -> None:
    """Above all no line break that would smuggle a header in."""
    (tmp_path / "k").write_text(text)
    keys = Keys(tmp_path / "k")
    keys.reread()
    assert keys.inference == ""
