"""HTTP/1.1 for load: one request in flight a connection, kept-alive connections, callbacks instead of tasks.

Some 30 us of CPU a request. An answer is not asked to be compressed: whoever measures wants no gzip in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import cast

import httptools

from loadtest.recorder import FAILED, OK

LENGTH = b"inference-header-content-length"
TIMING = b"server-timing"
Done = Callable[["Reply"], None]


class Reply:
    """What came back: ``ended`` is the time of the last byte, ``status`` one of the recorder's."""

    __slots__ = ("body", "ended", "header_length", "status", "text", "timing")

    def __init__(self, status: int, ended: int, body: bytes = b"", text: str = "") -> None:
        self.status = status
        self.ended = ended
        self.body = body
        self.text = text
        self.header_length: int | None = None
        self.timing = ""


class HttpTarget:
    """One address. ``messages`` are whole requests, written once."""

    def __init__(self, host: str, port: int, messages: Sequence[bytes]) -> None:
        self._host, self._port = host, port
        self._messages = messages
        self._idle: deque[_Connection] = deque()
        self._waiting: set[asyncio.Task[None]] = set()

    async def connect(self, count: int) -> None:
        """Opens connections before the first request. Raises OSError."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, connection = await loop.create_connection(self._make, self._host, self._port)
            self._idle.append(connection)

    def send(self, payload: int, done: Done) -> Callable[[], None]:
        """Sends at once, and gives what gives the request up. A new connection's opening is part of its time."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                connection.exchange(self._messages[payload], done)
                return connection.abandon
        task = asyncio.get_running_loop().create_task(self._send_anew(payload, done))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task.cancel  # type: ignore[return-value]  # its bool is of no interest

    async def _send_anew(self, payload: int, done: Done) -> None:
        loop = asyncio.get_running_loop()
        connection: _Connection | None = None
        answered = loop.create_future()

        def ended(reply: Reply) -> None:
            done(reply)
            if not answered.done():
                answered.set_result(None)

        try:
            _, connection = await loop.create_connection(self._make, self._host, self._port)
            connection.exchange(self._messages[payload], ended)
            await answered
        except OSError as error:
            done(Reply(FAILED, perf_counter_ns(), text=error.strerror or "cannot connect"))
        except asyncio.CancelledError:
            if connection is not None:
                connection.abandon()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _make(self) -> _Connection:
        return _Connection(self._idle)


class _Connection(asyncio.Protocol):
    """The parser calls the ``on_`` methods. Once free again it puts itself among the idle ones."""

    def __init__(self, idle: deque[_Connection]) -> None:
        self._idle = idle
        self._done: Done | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 26)
        self.open = True

    def exchange(self, message: bytes, done: Done) -> None:
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._header_length: int | None = None
        self._timing = ""
        self._transport.write(message)

    def abandon(self) -> None:
        self._done = None
        self.close()

    def close(self) -> None:
        self.open = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(Reply(FAILED, perf_counter_ns(), text=f"no HTTP answer: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._done is not None:
            self._finish(Reply(FAILED, perf_counter_ns(), text="the server closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == LENGTH:
            self._header_length = int(value)
        elif lower == TIMING:
            self._timing = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        ended = perf_counter_ns()
        code = self._parser.get_status_code()
        body = b"".join(self._pieces)
        text = "" if code == 200 else f"{code} {body[:200].decode(errors='replace')}"
        reply = Reply(OK if code == 200 else FAILED, ended, body, text)
        reply.header_length, reply.timing = self._header_length, self._timing
        if self._parser.should_keep_alive():
            self._idle.append(self)
        else:
            self.close()
        self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(reply)


def message(host: str, port: int, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}:{port}", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
