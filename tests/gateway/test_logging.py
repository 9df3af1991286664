"""Logs never hold up what they tell of: whoever should read them may not."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.logging import LineWriter, QueuedHandler
from tests.gateway.conftest import free_port, wait_for

#: More than a pipe takes, 64 KiB, of either kind of line.
REQUESTS = 1500


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A gateway whose standard output and error are pipes that nobody reads."""
    http, admin = free_port(), free_port()
    settings = {
        "auth": {"mode": "off"},
        "http": {"port": http},
        "grpc": {"port": free_port()},
        "admin": {"port": admin},
        "servers": {"t": {"kind": "tfserving", "endpoint": "127.0.0.1:1"}},
        "models": {"m": {}},
        "log": {"level": "debug", "access": True},
    }
    (tmp_path / "duet.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "gateway", "--config", str(tmp_path / "duet.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{http}/v2/health/live").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(answers, "the gateway to answer")
    yield process, http, admin
    process.kill()
    process.communicate()


def test_pipes_that_nobody_reads_stop_neither_the_gateway_nor_its_end(
    unread: tuple[subprocess.Popen[bytes], int, int],
) -> None:
    """The kind: standard output and error, access lines and log records, while serving and while ending."""
    process, http, admin = unread
    with httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=10) as client:
        for _ in range(REQUESTS):
            assert client.post("/v2/models/m/infer", content=b"{}").status_code in (400, 503)
    assert httpx.get(f"http://127.0.0.1:{admin}/healthz", timeout=10).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_lines_come_out_in_order_and_whole_when_a_slow_reader_reads_at_last() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        writer = LineWriter(pipe, gather_seconds=0.0)
    for number in range(5000):
        writer.put(b"%d %s\n" % (number, b"x" * 40))
    with os.fdopen(reading, "rb") as stream:
        ending = threading.Thread(target=writer.close, args=(10,))
        ending.start()
        lines = [stream.readline() for _ in range(5000)]
        ending.join()
    assert [int(line.split()[0]) for line in lines] == list(range(5000))


def test_a_reader_that_has_gone_is_counted_and_ends_nothing() -> None:
    lost: list[int] = []
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        writer = LineWriter(pipe, gather_seconds=0.0, on_lost=lost.append)
    os.close(reading)
    for _ in range(10):
        writer.put(b"line\n")
    writer.close()
    assert sum(lost) == 10


def test_a_full_disk_is_counted_and_ends_nothing() -> None:
    lost: list[int] = []
    with open("/dev/full", "wb", buffering=0) as full:
        writer = LineWriter(full, gather_seconds=0.0, on_lost=lost.append)
    writer.put(b"line\n")
    writer.close()
    assert sum(lost) == 1


def test_a_record_that_cannot_be_formatted_does_not_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        handler = QueuedHandler(LineWriter(stream, gather_seconds=0.0))
    for arguments in (("%d", ("text",)), ("%s", ("right",))):
        handler.handle(logging.LogRecord("duet", logging.INFO, "", 1, arguments[0], arguments[1], None))
    handler.close()
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["right"]
    assert "Logging error" in capsys.readouterr().err
