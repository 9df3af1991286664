"""Unary gRPC calls on one HTTP/2 connection, as cheap as Python can: grpcio's client costs more than most servers.

RFC 9113 and 7541. The server is told to keep no header table, so trailers need no state and are not read at all: an
answer counts by its message, which a failed call does not have.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from typing import cast

from loadtest.bench.http1 import OnAnswer, OnFailure
from loadtest.bench.jobs import Job

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = (1 << 31) - 1
_FRAME_BYTES = 16_384
#: After so many received bytes the connection's window is opened again.
_REPLENISH_BYTES = 1 << 24
_INITIAL_WINDOW, _HEADER_TABLE, _PUSH = 4, 1, 2


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(job: Job) -> bytes:
    """Literal fields without indexing; the numbers are those of HPACK's static table."""

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04" + text(job.path)
        + b"\x01" + text(f"{job.host}:{job.port}")
        + b"\x0f\x10" + text("application/grpc")
        + b"\x00" + text("te") + text("trailers")
    )  # fmt: skip


def messages(job: Job) -> list[bytes]:
    return [b"\x00" + struct.pack(">I", len(body)) + body for body in job.bodies]


class Connection(asyncio.Protocol):
    """`send` may be called as often as there are to be streams at a time, and again after each answer."""

    def __init__(self, headers: bytes, bodies: Sequence[bytes], on_answer: OnAnswer, on_failure: OnFailure) -> None:
        self._headers = headers
        self._bodies = bodies
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._buffer = b""
        self._stream = 1
        self._open: dict[int, tuple[int, list[bytes]]] = {}
        self._window = 65_535
        self._waiting: deque[int] = deque()
        self._received = 0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HIHIHI", _HEADER_TABLE, 0, _PUSH, 0, _INITIAL_WINDOW, _WINDOW)
        more = struct.pack(">I", _WINDOW - 65_535)
        self._transport.write(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW_UPDATE, 0, 0, more))

    def send(self, number: int) -> None:
        body = self._bodies[number % len(self._bodies)]
        if self._window < len(body):
            self._waiting.append(number)
            return
        self._window -= len(body)
        stream = self._stream
        self._stream += 2
        self._open[stream] = (number, [])
        frames = [frame(_HEADERS, _END_HEADERS, stream, self._headers)]
        for start in range(0, len(body), _FRAME_BYTES):
            last = start + _FRAME_BYTES >= len(body)
            frames.append(frame(_DATA, _END_STREAM if last else 0, stream, body[start : start + _FRAME_BYTES]))
        self._transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        start, end = 0, len(buffer)
        while end - start >= 9:
            length = int.from_bytes(buffer[start : start + 3], "big")
            if end - start < 9 + length:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, start + 3)
            self._take(kind, flags, stream, buffer[start + 9 : start + 9 + length])
            start += 9 + length
        self._buffer = buffer[start:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._open[stream][1].append(payload)
            self._received += len(payload)
            if self._received > _REPLENISH_BYTES:
                self._transport.write(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
                self._received = 0
        elif kind == _HEADERS and flags & _END_STREAM:
            number, pieces = self._open.pop(stream)
            # Five bytes of gRPC before the message: not compressed, and its length.
            self._on_answer(self, number, b"".join(pieces)[5:])
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and not stream:
            self._window += int.from_bytes(payload, "big")
            while self._waiting and self._window >= max(map(len, self._bodies)):
                self.send(self._waiting.popleft())
        elif kind in (_RST_STREAM, _GOAWAY):
            self._fail(f"HTTP/2 frame {kind}: {payload[:200]!r}")

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self._fail(f"the connection was closed: {error}")

    def close(self) -> None:
        self._closing = True
        self._transport.close()

    def _fail(self, text: str) -> None:
        if not self._closing:
            self.close()
            self._on_failure(text)
