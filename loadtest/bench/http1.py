"""HTTP/1.1 with one request in flight on a connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from loadtest.bench.jobs import Job

_LENGTH = re.compile(rb"\r\ncontent-length:[ ]*([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ ]*chunked", re.IGNORECASE)


class Sender(Protocol):
    def send(self, number: int) -> None: ...

    def close(self) -> None: ...


#: Called with the connection, the request's number and its answer's body.
OnAnswer = Callable[[Sender, int, bytes], None]
#: Called with a text; the connection is of no more use.
OnFailure = Callable[[str], None]


def requests(job: Job) -> list[bytes]:
    return [
        f"POST {job.path} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\n{job.headers}"
        f"Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        + body
        for body in job.bodies
    ]


class Connection(asyncio.Protocol):
    """Whoever holds it calls `send` once it is open, and again after each answer."""

    def __init__(self, messages: Sequence[bytes], on_answer: OnAnswer, on_failure: OnFailure) -> None:
        self._messages = messages
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._number = 0
        self._buffer = b""
        self._end = 0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, number: int) -> None:
        self._number = number
        self._transport.write(self._messages[number % len(self._messages)])

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        if not self._end:
            head = buffer.find(b"\r\n\r\n") + 4
            if head < 4:
                return
            length = _LENGTH.search(buffer, 0, head)
            if buffer[9:12] != b"200" or (length is None and _CHUNKED.search(buffer, 0, head) is None):
                self._fail(buffer[:400].decode("latin-1"))
                return
            if length is None:
                body = joined(buffer, head)
                if body is not None:
                    self._done(body)
                return
            self._start, self._end = head, head + int(length[1])
        if len(buffer) >= self._end:
            self._done(buffer[self._start : self._end])

    def _done(self, body: bytes) -> None:
        self._buffer, self._end = b"", 0
        self._on_answer(self, self._number, body)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self._fail(f"the connection was closed: {error}")

    def close(self) -> None:
        self._closing = True
        self._transport.close()

    def _fail(self, text: str) -> None:
        self.close()
        self._on_failure(text)


def joined(buffer: bytes, start: int) -> bytes | None:
    """The chunks from ``start`` on (RFC 9112, section 7.1), None while the last one is not there.

    >>> joined(b"3\\r\\nabc\\r\\n1\\r\\nd\\r\\n0\\r\\n\\r\\n", 0)
    b'abcd'
    """
    pieces = []
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(buffer[start:line].partition(b";")[0], 16)
        start = line + 2
        if not size:
            return b"".join(pieces) if buffer.startswith(b"\r\n", start) else None
        pieces.append(buffer[start : start + size])
        start += size + 2
    return None
