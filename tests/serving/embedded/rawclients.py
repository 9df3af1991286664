"""Clients below their libraries, for what no library sends: halves, lies about lengths, silence."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0, 1, 4, 8
_END_HEADERS = 4
_FRAME_BYTES = 1 << 14
#: http2's initial window, of a stream and of a connection.
_WINDOW = 65_535


def rst(connection: socket.socket) -> None:
    """Vanish: the peer gets a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def http(port: int, *parts: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    for part in parts:
        connection.sendall(part)
    return connection


def head(path: str, length: int | None = None, extra: str = "") -> bytes:
    body = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{body}\r\n{extra}\r\n".encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of what comes until the body's end, or the connection's."""
    text = b""
    while b"\r\n\r\n" not in text:
        received = connection.recv(1 << 16)
        if not received:
            return 0, text
        text += received
    lines, _, body = text.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", b"0")):
        received = connection.recv(1 << 16)
        if not received:
            break
        body += received
    return int(lines.split(b" ")[1]), body


def half_call(port: int, method: str, declared_bytes: int, sent: bytes = b"") -> socket.socket:
    """A gRPC call whose message is to have so many bytes, of which only some are sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())
    message = b"\x00" + struct.pack(">I", declared_bytes) + sent
    connection.sendall(
        PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, 0, 1, message)
    )
    return connection


def send_on(connection: socket.socket, count: int) -> bytes:
    """``count`` more zeros of the message, as fast as the server lets them in; what it said, when it says a status.

    Frames are read for the windows only. gRPC's own server writes headers as plain text (no Huffman code).
    """
    received, window = b"", _WINDOW
    stream_window = _WINDOW
    piece = bytes(_FRAME_BYTES)
    frames = _frames(connection)
    while count:
        while min(window, stream_window) < _FRAME_BYTES:
            kind, stream, content = next(frames, (None, 0, b""))
            if kind is None or b"grpc-status" in content:
                return received + content
            if kind == _WINDOW_UPDATE:
                (size,) = struct.unpack(">I", content)
                window, stream_window = (window + size, stream_window) if not stream else (window, stream_window + size)
        connection.sendall(_frame(_DATA, 0, 1, piece))
        window, stream_window, count = window - _FRAME_BYTES, stream_window - _FRAME_BYTES, max(count - _FRAME_BYTES, 0)
    return received


def _frames(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    stream = connection.makefile("rb")
    while len(top := stream.read(9)) == 9:
        size = int.from_bytes(top[:3], "big")
        yield top[3], int.from_bytes(top[5:], "big"), stream.read(size)


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def _text(value: str) -> bytes:
    """A literal of HPACK, shorter than 127 bytes."""
    return bytes([len(value)]) + value.encode()
