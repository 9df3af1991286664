"""Whether the event loop still moves, seen by a thread: what stands still cannot say so itself.

Liveness means this and nothing else. A dead server, overload or a model that fails are no reasons to restart a gateway.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import sys
import threading
import traceback
from contextlib import suppress
from time import monotonic

import orjson

log = logging.getLogger("duet.watchdog")

_BEAT_SECONDS = 0.25
_LINES_OF_STACK = 12


class Watchdog:
    """After ``limit_seconds`` without a beat of the loop it logs where the loop stands, and answers on ``admin``.

    ``admin`` is the listening socket of the admin port: connections that the loop does not take are told 503, whatever
    they ask for. Make it in the loop's own thread.
    """

    def __init__(self, admin: socket.socket, *, limit_seconds: float) -> None:
        self._admin = admin.dup()
        self._limit_seconds = limit_seconds
        self._loop = asyncio.get_running_loop()
        self._of_loop = threading.get_ident()
        self._beat_at = monotonic()
        self._beating: asyncio.TimerHandle | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def lag_seconds(self) -> float:
        """By how much the loop's next beat is late."""
        return max(0.0, monotonic() - self._beat_at - _BEAT_SECONDS)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._beating is not None:
            self._beating.cancel()
        self._thread.join(1)
        self._admin.close()

    def _beat(self) -> None:
        self._beat_at = monotonic()
        self._beating = self._loop.call_later(_BEAT_SECONDS, self._beat)

    def _watch(self) -> None:
        told = False
        while not self._stopping.wait(_BEAT_SECONDS):
            if self.lag_seconds <= self._limit_seconds:
                told = False
                continue
            if not told:
                log.error("the event loop has stood for %.1f s:\n%s", self.lag_seconds, self._where())
                told = True
            self._answer()

    def _answer(self) -> None:
        """Whoever asks now is answered for the loop, one after the other."""
        while self.lag_seconds > self._limit_seconds and not self._stopping.is_set():
            readable, _, _ = select.select([self._admin], [], [], _BEAT_SECONDS)
            if readable:
                with suppress(OSError):
                    connection, _ = self._admin.accept()
                    with connection:
                        self._refuse(connection)

    def _refuse(self, connection: socket.socket) -> None:
        connection.settimeout(1)
        connection.recv(65_536)
        body = orjson.dumps({"live": False, "error": f"the event loop has stood for {self.lag_seconds:.1f} s"})
        head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
        connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)

    def _where(self) -> str:
        frame = sys._current_frames().get(self._of_loop)
        lines = traceback.format_stack(frame)[-_LINES_OF_STACK:] if frame is not None else ["nowhere"]
        return "".join(lines)
