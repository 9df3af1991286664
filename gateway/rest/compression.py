"""Content-Encoding both ways: gzip, and deflate, which means the zlib form (RFC 9110, section 8.4.1.2)."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence

from gateway.errors import InvalidArgument, PayloadTooLarge, Unimplemented
from gateway.rest import asgi

ACCEPTED = (b"accept-encoding", b"gzip, deflate")

#: zlib's window bits: 31 is the largest window in a gzip envelope, 15 the same in a zlib envelope.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
#: Below this a coding saves no packet.
_MIN_BYTES = 1024
#: Above this, compressing takes milliseconds: not on the event loop.
_MAX_INLINE_BYTES = 64 << 10
#: Numbers hardly get smaller by more work.
_LEVEL = 1
#: A body may be this many times as large as it came. Deflate itself goes to 1,032.
_MAX_RATIO = 100
#: Below this no ratio is a danger.
_HARMLESS_BYTES = 64 << 10
#: Of a gzip file: those who write it block by block make one for each 64 kB.
_MAX_MEMBERS = 1024
#: Entries of an Accept-Encoding header that are read.
_MAX_CODINGS = 64


class UnknownCoding(Unimplemented):
    """Goes with the header `ACCEPTED`."""


async def read_body(scope: asgi.Scope, receive: asgi.Receive, *, max_bytes: int) -> bytes:
    """The whole body, decompressed as it comes in. ``max_bytes`` bounds both forms of it.

    Raises UnknownCoding, PayloadTooLarge, ClientGone, and InvalidArgument where the data are not what they claim.
    """
    coding = _text(asgi.header(scope, b"content-encoding"))
    if coding in ("", "identity"):
        return await asgi.read_body(scope, receive, max_bytes=max_bytes)
    if coding not in _WINDOW_BITS:
        raise UnknownCoding(f"Content-Encoding {coding!r} is not taken here; send gzip, deflate or the body as it is")
    inflating = _Inflating(coding, max_bytes)
    async for piece in asgi.pieces(scope, receive, max_bytes=max_bytes):
        inflating.feed(piece)
    return inflating.finish()


def chosen(scope: asgi.Scope) -> str | None:
    """The coding that the client's Accept-Encoding likes best, None for the body as it is."""
    given = asgi.header(scope, b"accept-encoding")
    if given is None:
        return None
    entries = _text(given).split(",", _MAX_CODINGS)[:_MAX_CODINGS]
    weights = {coding: weight for coding, weight in map(_weighed, entries) if coding in _WINDOW_BITS}
    best = max(weights, key=lambda coding: weights[coding], default=None)
    return best if best is not None and weights[best] > 0 else None


async def compressed(coding: str | None, pieces: Sequence[bytes | memoryview]) -> bytes | None:
    """The pieces in this coding, or None where they had better go as they are."""
    size = sum(map(len, pieces))
    if coding is None or size < _MIN_BYTES:
        return None
    if size > _MAX_INLINE_BYTES:
        return await asyncio.to_thread(_deflate, coding, pieces)
    return _deflate(coding, pieces)


def _deflate(coding: str, pieces: Sequence[bytes | memoryview]) -> bytes:
    deflating = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[coding])
    return b"".join([*(deflating.compress(piece) for piece in pieces), deflating.flush()])


class _Inflating:
    """Decompresses a body piece by piece, and holds no more than ``max_bytes`` of it."""

    def __init__(self, coding: str, max_bytes: int) -> None:
        self._coding = coding
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._received = 0
        self._members = 1
        self._stream = self._new()

    def feed(self, piece: bytes) -> None:
        self._received += len(piece)
        limit = min(self._max_bytes, max(_HARMLESS_BYTES, _MAX_RATIO * self._received))
        while piece:
            if self._stream.eof:
                # A gzip file may have several members (RFC 1952, section 2.2).
                if self._coding != "gzip":
                    raise InvalidArgument(f"the body goes on after the end of its {self._coding} data")
                self._members += 1
                if self._members > _MAX_MEMBERS:
                    raise InvalidArgument(f"the body has more than {_MAX_MEMBERS} gzip members")
                self._stream = self._new()
            try:
                inflated = self._stream.decompress(piece, limit + 1 - self._size)
            except zlib.error as error:
                raise InvalidArgument(f"the body is not valid {self._coding}: {error}") from None
            self._pieces.append(inflated)
            self._size += len(inflated)
            if self._size > self._max_bytes:
                raise asgi.too_large(self._max_bytes)
            if self._size > limit:
                raise PayloadTooLarge(f"the body is more than {_MAX_RATIO} times as large as its {self._coding} data")
            piece = self._stream.unused_data

    def finish(self) -> bytes:
        if not self._stream.eof:
            raise InvalidArgument(f"the body ends before its {self._coding} data do")
        return b"".join(self._pieces)

    def _new(self) -> zlib._Decompress:
        return zlib.decompressobj(_WINDOW_BITS[self._coding])


def _text(value: bytes | None) -> str:
    return value.decode("latin-1").strip().lower() if value is not None else ""


def _weighed(entry: str) -> tuple[str, float]:
    coding, _, parameter = entry.partition(";")
    name, _, weight = parameter.partition("=")
    try:
        return coding.strip(), float(weight) if name.strip() == "q" else 1.0
    except ValueError:
        return coding.strip(), 0.0
