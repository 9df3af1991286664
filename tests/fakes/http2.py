"""gRPC's wire by hand, for clients that do what no library's client would. RFC 9113, and gRPC's protocol over it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from time import monotonic
from types import MappingProxyType

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_CANCEL = 8
_END_STREAM, _END_HEADERS = 1, 4
_ACK = 1
_INITIAL_WINDOW_SIZE = 4
_FRAME_BYTES = 1 << 14

#: What a client says first. It settles nothing, so that a stream's window is 65,535 bytes, as is the connection's.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))


def call(stream: int, path: str, message: bytes, **metadata: str) -> bytes:
    """A unary call whose message fits into a frame. ``stream`` is odd, and larger than those before."""
    return _head(stream, path, metadata) + frame(_DATA, _END_STREAM, stream, _prefixed(message))


def half(stream: int, path: str, size: int, **metadata: str) -> bytes:
    """A call that announces a message of ``size`` bytes and sends none of them. (``x_api_key`` is ``x-api-key``.)"""
    return _head(stream, path, metadata) + frame(_DATA, 0, stream, b"\0" + struct.pack(">I", size))


def reset(stream: int) -> bytes:
    """The client wants no answer any more."""
    return frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))


def ping() -> bytes:
    return frame(_PING, 0, 0, bytes(8))


def settled() -> bytes:
    """The client has taken the server's settings."""
    return frame(_SETTINGS, _ACK, 0, b"")


def goaways(data: bytes) -> list[tuple[int, bytes]]:
    """The error code and text of each GOAWAY among whole frames."""
    found = []
    while data:
        size, kind = int.from_bytes(data[:3], "big"), data[3]
        if kind == _GOAWAY:
            found.append((struct.unpack(">I", data[13:17])[0], data[17 : 9 + size]))
        data = data[9 + size :]
    return found


async def ask(sock: socket.socket, path: str, message: bytes) -> None:
    """The preface, and one call of any size: as fast as the server gives room for it. What it answers stays unread."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, PREFACE + _head(1, path))
    windows, left = {0: 65_535, 1: 65_535}, memoryview(_prefixed(message))
    while left:
        size = min(len(left), _FRAME_BYTES, *windows.values())
        if size > 0:
            await loop.sock_sendall(sock, frame(_DATA, _END_STREAM * (size == len(left)), 1, bytes(left[:size])))
            left = left[size:]
            windows = {stream: window - size for stream, window in windows.items()}
        else:
            kind, stream, payload = await _read_frame(sock)
            _widen(windows, kind, stream, payload)
            if kind == _SETTINGS and payload:  # they hold from now on
                await loop.sock_sendall(sock, frame(_SETTINGS, _ACK, 0, b""))


def push_halves(sock: socket.socket, path: str, calls: int, size: int, *, seconds: float, **metadata: str) -> set[int]:
    """Sends nearly all of ``calls`` messages at once, as fast as the server gives room, and keeps them open.

    Gives the streams that the server has ended meanwhile; returns when all are.
    """
    streams = range(1, 2 * calls + 1, 2)
    sock.sendall(PREFACE + settled() + b"".join(half(stream, path, size, **metadata) for stream in streams))
    windows = {0: 65_535 - 5 * calls, **dict.fromkeys(streams, 65_535 - 5)}
    left = dict.fromkeys(streams, size - 100)
    initial, data, end = 65_535, b"", monotonic() + seconds
    while left and monotonic() < end:
        sent = 0
        for stream in left:
            room = min(left[stream], _FRAME_BYTES, windows[stream], windows[0])
            if room > 0:
                sock.sendall(frame(_DATA, 0, stream, bytes(room)))
                left[stream] -= room
                windows = {**windows, 0: windows[0] - room, stream: windows[stream] - room}
                sent += room
        sock.settimeout(0.001 if sent else 0.05)
        try:
            data += sock.recv(1 << 16)
        except TimeoutError:
            continue
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            size_of_frame, kind = 9 + int.from_bytes(data[:3], "big"), data[3]
            stream, payload = struct.unpack(">I", data[5:9])[0], data[9:size_of_frame]
            data = data[size_of_frame:]
            if kind == _RST_STREAM:
                left.pop(stream, None)
            elif kind == _WINDOW_UPDATE and stream in windows:
                windows[stream] += struct.unpack(">I", payload)[0]
            elif kind == _SETTINGS:
                for name, value in struct.iter_unpack(">HI", payload):
                    if name == _INITIAL_WINDOW_SIZE:
                        windows = {n: window + (value - initial) * (n > 0) for n, window in windows.items()}
                        initial = value
    return set(streams) - set(left)


def _widen(windows: dict[int, int], kind: int, stream: int, payload: bytes) -> None:
    if kind == _WINDOW_UPDATE and stream in windows:
        windows[stream] += struct.unpack(">I", payload)[0]
    elif kind == _SETTINGS:
        for name, value in struct.iter_unpack(">HI", payload):
            windows[1] += value - 65_535 if name == _INITIAL_WINDOW_SIZE else 0


async def _read_frame(sock: socket.socket) -> tuple[int, int, bytes]:
    head = await _read(sock, 9)
    return head[3], struct.unpack(">I", head[5:])[0], await _read(sock, int.from_bytes(head[:3], "big"))


async def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        if not more:
            raise ConnectionError("the server has closed the connection")
        data += more
    return data


def _head(stream: int, path: str, metadata: Mapping[str, str] = MappingProxyType({})) -> bytes:
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    headers |= {name.replace("_", "-"): value for name, value in metadata.items()}
    return frame(_HEADERS, _END_HEADERS, stream, b"".join(map(_field, headers, headers.values())))


def _prefixed(message: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(message)) + message


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Any frame, by the number of its kind."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _field(name: str, value: str) -> bytes:
    """A literal without an index (RFC 7541, 6.2.2); no longer than 126 bytes each."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
