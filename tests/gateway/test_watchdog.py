"""A loop that stands still cannot answer; the watchdog's thread answers for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from gateway.watchdog import Watchdog


def test_while_the_loop_stands_liveness_is_503_and_the_log_says_where(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[tuple[int, dict[str, object]]] = []
    answered = threading.Event()

    def ask(port: int) -> None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20)
        except urllib.error.HTTPError as error:
            answers.append((error.code, json.load(error)))
            error.close()
        finally:
            answered.set()

    async def stand_still() -> None:
        with socket.create_server(("127.0.0.1", 0)) as admin:
            watchdog = Watchdog(admin, limit_seconds=0.2)
            watchdog.start()
            caller = threading.Thread(target=ask, args=admin.getsockname()[1:])
            caller.start()
            answered.wait(20)
            await asyncio.sleep(0)
            watchdog.stop()
            caller.join()

    asyncio.run(stand_still())
    [(status, body)] = answers
    assert status == 503
    assert body["live"] is False
    assert "answered.wait(20)" in caplog.text


def test_a_loop_that_moves_is_left_alone() -> None:
    async def move() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as admin:
            watchdog = Watchdog(admin, limit_seconds=60)
            watchdog.start()
            with socket.create_connection(admin.getsockname()) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                await asyncio.sleep(1)
                client.setblocking(False)
                with pytest.raises(BlockingIOError):
                    client.recv(1)
            watchdog.stop()
            return True

    assert asyncio.run(move())
