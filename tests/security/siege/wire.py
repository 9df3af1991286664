"""What attackers speak: HTTP by bytes, and HTTP/2 by frames, over sockets that are bound to an address of their own."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE, _MAX_FRAME = 4, 1 << 14
GONE = (OSError, ConnectionError, asyncio.IncompleteReadError)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Budget:
    """So many a second: an attack by mere bandwidth is for what stands before the gateway."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._next = 0.0

    async def spend(self, count: float) -> None:
        now = monotonic()
        self._next = max(self._next, now - 0.05) + count / self._per_second
        if self._next > now:
            await asyncio.sleep(self._next - now)


_CONNECTIONS, _BYTES = Budget(500), Budget(40e6)


@dataclass
class Target:
    """Whom to attack, as whom, and what the attacker holds now. ``key`` is empty where none is shown."""

    http: int
    grpc: int
    admin: int
    key: str
    source: str
    held: int = 0
    #: What it has done: ``connections`` opened, and over HTTP/2 ``settings`` of the server that came, ``streams``
    #: begun, those of which the server spoke (``answered``), and ``bytes`` that it took.
    did: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, text: str) -> Target:
        return cls(**json.loads(text))

    @property
    def lines(self) -> tuple[str, ...]:
        return (f"x-api-key: {self.key}",) if self.key else ()

    @property
    def metadata(self) -> dict[str, str]:
        return {"x-api-key": self.key} if self.key else {}

    async def dial(self, port: int, *, unread: bool = False) -> socket.socket:
        """``unread`` makes the socket's own buffer as small as it may be."""
        await _CONNECTIONS.spend(1)
        sock = socket.socket()
        sock.setblocking(False)
        if unread:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            sock.bind((self.source, 0))
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        self.did["connections"] += 1
        return sock


async def send(sock: socket.socket, data: bytes) -> None:
    await _BYTES.spend(len(data))
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def drain(sock: socket.socket) -> int:
    """Reads until the other side closes; gives how much came."""
    count = 0
    with suppress(*GONE):
        while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            count += len(data)
    return count


async def is_closed(sock: socket.socket, seconds: float) -> bool:
    """Whether the other side closes within this time; what comes is thrown away."""
    try:
        async with asyncio.timeout(seconds):
            await drain(sock)
    except TimeoutError:
        return False
    return True


def request(method: str, target: str, body: bytes = b"", *lines: str, length: int | None = None) -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: localhost", *lines]
    if body or length is not None:
        head.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def settings(**values: int) -> bytes:
    """``window``: the initial window of a stream, in which the server may send."""
    payload = b"".join(struct.pack(">HI", _INITIAL_WINDOW_SIZE, value) for value in values.values())
    return frame(SETTINGS, 0, 0, payload)


def _length(size: int) -> bytes:
    """An HPACK integer of 7 bits (RFC 7541, 5.1)."""
    if size < 127:
        return bytes((size,))
    found, size = bytearray((127,)), size - 127
    while size >= 128:
        found.append(size % 128 + 128)
        size //= 128
    return bytes((*found, size))


def literal(name: str, value: str, *, indexed: bool = False) -> bytes:
    name_bytes, value_bytes = name.encode(), value.encode("latin-1")
    return (
        (b"\x40" if indexed else b"\0")
        + _length(len(name_bytes))
        + name_bytes
        + _length(len(value_bytes))
        + value_bytes
    )


def block(path: str, metadata: dict[str, str], extra: Iterable[tuple[str, str]] = ()) -> bytes:
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    headers += [("content-type", "application/grpc"), ("te", "trailers"), *metadata.items(), *extra]
    return b"".join(literal(*header) for header in headers)


def head(stream: int, path: str, metadata: dict[str, str], *, flags: int = 0, extra: Any = ()) -> bytes:
    return frame(HEADERS, END_HEADERS | flags, stream, block(path, metadata, extra))


def prefixed(message: bytes, *, size: int | None = None, compressed: bool = False) -> bytes:
    return bytes((compressed,)) + struct.pack(">I", len(message) if size is None else size) + message


class Http2:
    """A connection that keeps to flow control, so that it is given all the room there is."""

    def __init__(self, sock: socket.socket, did: Counter[str]) -> None:
        self.sock = sock
        self._did = did
        self._silent: set[int] = set()
        self.open: dict[int, int] = {}
        self.answered = 0
        self._next = 1
        self._initial = 65_535
        self._window = 65_535
        self._is_settled = False
        self._changed = asyncio.Event()
        #: Frames of several tasks must not mix, and new streams come in the order of their numbers.
        self._writing = asyncio.Lock()
        self.gone = False
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def dial(cls, target: Target, *, window: int = 65_535, read: bool = True, unread: bool = False) -> Http2:
        made = cls(await target.dial(target.grpc, unread=unread), target.did)
        await send(made.sock, PREFACE + settings(window=window) + frame(SETTINGS, ACK, 0))
        if read:
            made._reading = asyncio.create_task(made._read())
        return made

    async def write(self, data: bytes) -> None:
        async with self._writing:
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        await send(self.sock, data)
        self._did["bytes"] += len(data)

    async def open_call(self, path: str, metadata: dict[str, str], *, extra: Any = ()) -> int:
        """A stream's number, once its head is sent."""
        async with self._writing:
            stream, data = self.begin(path, metadata, extra=extra)
            await self._send(data)
        return stream

    def begin(self, path: str, metadata: dict[str, str], *, flags: int = 0, extra: Any = ()) -> tuple[int, bytes]:
        """The stream's number and the frame that begins it."""
        stream, self._next = self._next, self._next + 2
        self.open[stream] = self._initial
        self._silent.add(stream)
        self._did["streams"] += 1
        return stream, head(stream, path, metadata, flags=flags, extra=extra)

    async def call(
        self, path: str, message: bytes, metadata: dict[str, str], *, extra: Any = (), flag: bool = False
    ) -> int:
        """A whole unary call of any size."""
        stream = await self.open_call(path, metadata, extra=extra)
        await self.push(stream, prefixed(message, compressed=flag), end=True)
        return stream

    async def push(self, stream: int, data: bytes, *, end: bool = False) -> bool:
        """As fast as the server gives room. False where the stream or the connection has ended."""
        left = memoryview(data)
        while left or end:
            if self.gone or stream not in self.open:
                return False
            size = min(len(left), _MAX_FRAME, self.open[stream], self._window)
            if left and size <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            self.open[stream] -= size
            self._window -= size
            last = end and size == len(left)
            await self.write(frame(DATA, END_STREAM * last, stream, bytes(left[:size])))
            left = left[size:]
            if last:
                return True
        return True

    async def wait_for_end(self, stream: int) -> None:
        while stream in self.open and not self.gone:
            self._changed.clear()
            await self._changed.wait()

    async def wait_for_answers(self, count: int) -> None:
        while self.answered < count and not self.gone:
            self._changed.clear()
            await self._changed.wait()

    async def until_gone(self) -> None:
        while not self.gone:
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self.gone = True
        self.sock.close()

    async def _read(self) -> None:
        loop, data = asyncio.get_running_loop(), b""
        try:
            while more := await loop.sock_recv(self.sock, 1 << 16):
                data += more
                at = 0
                while len(data) >= at + 9:
                    size = int.from_bytes(data[at : at + 3], "big")
                    if len(data) < at + 9 + size:
                        break
                    stream = struct.unpack(">I", data[at + 5 : at + 9])[0]
                    await self._take(data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + size])
                    at += 9 + size
                data = data[at:]
        except GONE:
            pass
        finally:
            self.gone = True
            self._changed.set()

    async def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if stream in self._silent:
            self._silent.remove(stream)
            self._did["answered"] += 1
        if kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM):
            self.open.pop(stream, None)
        if kind == DATA and payload:
            self.answered += 1
            await self.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
        elif kind == WINDOW_UPDATE:
            more = struct.unpack(">I", payload)[0]
            if stream == 0:
                self._window += more
            elif stream in self.open:
                self.open[stream] += more
        elif kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == _INITIAL_WINDOW_SIZE:
                    self.open = {n: room + value - self._initial for n, room in self.open.items()}
                    self._initial = value
            # C core takes no more acknowledgements than it has sent settings, and the first was sent by `dial`.
            if self._is_settled:
                await self.write(frame(SETTINGS, ACK, 0))
            self._did["settings"] += 1
            self._is_settled = True
        elif kind == PING and not flags & ACK:
            await self.write(frame(PING, ACK, 0, payload))
        self._changed.set()
