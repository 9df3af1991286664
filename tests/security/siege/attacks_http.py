"""Attacks on the ports that speak HTTP: the one for inference, and the one for administration."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Callable

from tests.security.door import MODEL
from tests.security.siege.attack import EVERYBODY, NOBODY, NOTHING, TINY, Attack, Run, for_ever, many
from tests.security.siege.wire import Target, drain, is_closed, request, send

_LIVE = "/v2/health/live"
_INFER, _PREDICT, _TORCH = f"/v2/models/{MODEL}/infer", f"/v1/models/{MODEL}:predict", f"/predictions/{MODEL}"
_LARGEST = 16 << 20
_FORGED = "Authorization: Bearer gw_0123abcd_" + "A" * 43
#: Well formed, of the right algorithm and issuer, signed by nobody.
_TOKEN = "Authorization: Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJhIn0." + "A" * 342


def half_heads(count: int, size: int, *, port: str = "http", drip: bool = True) -> Run:
    """Heads without an end, of ``size`` bytes, and a byte more now and then."""

    async def run(target: Target) -> None:
        line = b"X-%d: " + b"a" * 320 + b"\r\n"
        head = f"GET {_LIVE} HTTP/1.1\r\nHost: localhost\r\n".encode()
        head += b"".join(line.replace(b"%d", b"%d" % n) for n in range(max(0, size // len(line))))

        async def one() -> None:
            with await target.dial(getattr(target, port)) as sock:
                await send(sock, head + b"X-Last: ")
                while not await is_closed(sock, 1.0) and drip:
                    await send(sock, b"a")

        await many(target, count, one)

    return run


def silent(count: int, first: bytes = b"", *, port: str = "http") -> Run:
    """Connections that say one thing, or nothing, and then hold still."""

    async def run(target: Target) -> None:
        async def one() -> None:
            with await target.dial(getattr(target, port)) as sock:
                if first:
                    await send(sock, first)
                await drain(sock)

        await many(target, count, one)

    return run


def churn(count: int, *, port: str = "http", say: bytes = b"") -> Run:
    """Connections that come and go."""

    async def run(target: Target) -> None:
        async def one() -> None:
            with await target.dial(getattr(target, port)) as sock:
                if say:
                    await send(sock, say)

        await many(target, count, one, pause=0.01)

    return run


def bodies(count: int, path: str, length: int, sent: int, *lines: str, port: str = "http", filler: bytes = b" ") -> Run:
    """Bodies that are announced and never whole."""

    async def run(target: Target) -> None:
        head = request("POST", path, b"", *target.lines, *lines, length=length)
        piece = filler * (64 << 10)

        async def one() -> None:
            with await target.dial(getattr(target, port)) as sock:
                await send(sock, head)
                for _ in range(sent // len(piece)):
                    await send(sock, piece)
                await send(sock, filler * (sent % len(piece)))
                while not await is_closed(sock, 1.0):
                    await send(sock, filler)

        await many(target, count, one)

    return run


def chunked(count: int, path: str, chunk: bytes) -> Run:
    """A body in the smallest chunks there are."""

    async def run(target: Target) -> None:
        head = request("POST", path, b"", *target.lines, "Transfer-Encoding: chunked")

        async def one() -> None:
            with await target.dial(target.http) as sock:
                await send(sock, head)
                reading = asyncio.ensure_future(drain(sock))
                while not reading.done():
                    await send(sock, chunk * 4096)
                    await asyncio.sleep(0.01)

        await many(target, count, one)

    return run


def asked(count: int, make: Callable[[Target], bytes], *, pause: float = 0.0, port: str = "http") -> Run:
    """Whole requests, one after the other on each connection, each when the one before is answered."""

    async def run(target: Target) -> None:
        async def one() -> None:
            data = make(target)
            with await target.dial(getattr(target, port)) as sock:
                while True:
                    await send(sock, data)
                    if not await asyncio.get_running_loop().sock_recv(sock, 1 << 18):
                        return
                    if pause:
                        await asyncio.sleep(pause)

        await many(target, count, one)

    return run


def pipelined(
    count: int, make: Callable[[Target], bytes], size: int = 256 << 10, *, read: bool, port: str = "http"
) -> Run:
    """As many requests as fit into ``size`` at once, and again as soon as they are taken."""

    async def run(target: Target) -> None:
        async def one() -> None:
            data = make(target)
            data = data * max(1, size // len(data))
            with await target.dial(getattr(target, port), unread=not read) as sock:
                reading = asyncio.ensure_future(drain(sock) if read else for_ever())
                try:
                    while not reading.done():
                        await send(sock, data)
                finally:
                    reading.cancel()

        await many(target, count, one)

    return run


def taken_back(count: int, make: Callable[[Target], bytes]) -> Run:
    """Requests whose client is gone, by a reset, as soon as they are sent."""

    async def run(target: Target) -> None:
        async def one() -> None:
            with await target.dial(target.http) as sock:
                await send(sock, make(target))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

        await many(target, count, one, pause=0.005)

    return run


def half_closed(count: int, make: Callable[[Target], bytes]) -> Run:
    """Requests whose client has ended its side, and does not read."""

    async def run(target: Target) -> None:
        async def one() -> None:
            with await target.dial(target.http, unread=True) as sock:
                await send(sock, make(target))
                sock.shutdown(socket.SHUT_WR)
                await asyncio.sleep(2)

        await many(target, count, one)

    return run


def get(path: str, *lines: str, method: str = "GET") -> Callable[[Target], bytes]:
    return lambda target: request(method, path, b"", *target.lines, *lines)


def post(path: str, body: bytes | Callable[[], bytes], *lines: str) -> Callable[[Target], bytes]:
    """A body that is made by a function is made in the attacker alone: it is a large one."""
    return lambda target: request("POST", path, body if isinstance(body, bytes) else body(), *target.lines, *lines)


def plain(path: str, *lines: str) -> Callable[[Target], bytes]:
    """Without the attacker's key."""
    return lambda _: request("GET", path, b"", *lines)


async def _everything(target: Target) -> None:
    """A little of each: what is bounded by itself may not be so together."""
    parts = (
        half_heads(150, 30_000),
        silent(150),
        bodies(60, _INFER, _LARGEST, 1 << 20),
        pipelined(10, get(_LIVE), read=False),
        asked(10, get(_INFER)),
        silent(100, port="grpc"),
    )
    await asyncio.gather(*(part(target) for part in parts))


def rows() -> bytes:
    return b'{"instances":[' + b"[1]," * ((_LARGEST >> 2) - 10) + b"[1]]}"


def rows_after_spaces() -> bytes:
    return b" " * 64 + b'{"instances":[' + b"[1]," * ((_LARGEST >> 2) - 30) + b"[1]]}"


def examples() -> bytes:
    return b'{"examples":[' + b"{}," * (_LARGEST // 3 - 10) + b"{}]}"


def zeros() -> bytes:
    return gzip.compress(bytes(64 << 20), 9)


_MANY_HEADERS = tuple(f"X-H{n}: {'a' * 310}" for n in range(90))
_OBJECTS = b'{"inputs":[' + b"{}," * 40_000 + b"{}]}"
_LONG_PATH = "/v2/models/" + "a" * 1900

HTTP: dict[str, Attack] = {
    "half heads": Attack(half_heads(1000, 0)),
    "half heads, large": Attack(half_heads(1000, 31_000)),
    "silent connections": Attack(silent(1000)),
    "idle after a request": Attack(silent(1000, request("GET", _LIVE))),
    "connections that come and go": Attack(churn(50)),
    "silent bodies": Attack(bodies(400, _INFER, _LARGEST, 8 << 20), EVERYBODY),
    "silent bodies, TorchServe": Attack(bodies(400, _TORCH, _LARGEST, 8 << 20), (TINY,)),
    "silent bodies, small": Attack(bodies(450, _INFER, 64 << 10, 63 << 10), (NOBODY, NOTHING)),
    "silent bodies of a health check": Attack(bodies(400, _LIVE, _LARGEST, 8 << 20)),
    "silent bodies, admin": Attack(bodies(100, "/healthz", _LARGEST, 8 << 20, port="admin")),
    "100-continue": Attack(bodies(400, _INFER, _LARGEST, 0, "Expect: 100-continue"), (NOTHING,)),
    "small chunks": Attack(chunked(8, _INFER, b"1\r\n \r\n"), (NOTHING,)),
    "small chunks of a health check": Attack(chunked(8, _LIVE, b"1\r\n \r\n")),
    "pipelined, unread": Attack(pipelined(40, get(_LIVE), read=False)),
    "pipelined": Attack(pipelined(4, get(_LIVE), read=True)),
    "pipelined, refused": Attack(pipelined(4, get(_INFER), read=True)),
    "pipelined, inferences": Attack(pipelined(4, post(_INFER, b"{}"), read=True), (TINY,)),
    "pipelined metrics, unread": Attack(pipelined(20, get("/metrics"), read=False, port="admin")),
    "metrics": Attack(asked(8, get("/metrics"), port="admin")),
    "the document, unread": Attack(pipelined(20, get("/openapi.json"), read=False, port="admin")),
    "health checks": Attack(asked(100, get(_LIVE))),
    "wrong keys": Attack(asked(50, plain(_INFER, _FORGED))),
    "wrong tokens": Attack(asked(50, plain(_INFER, _TOKEN))),
    "refusals": Attack(asked(50, post(_INFER, b"{}")), (NOTHING,)),
    "long paths": Attack(asked(50, get(_LONG_PATH))),
    "many headers": Attack(asked(50, get(_LIVE, *_MANY_HEADERS))),
    "malformed requests": Attack(asked(50, lambda _: b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")),
    "offers of another protocol": Attack(asked(50, get(_LIVE, "Upgrade: h2c", "Connection: Upgrade"))),
    "foreign websites": Attack(asked(50, get(_LIVE, "Origin: https://evil.example"))),
    "microseconds to answer": Attack(asked(20, post(_INFER, b'{"inputs":[]}', "x-duet-timeout-ms: 0.001")), (TINY,)),
    "taken back": Attack(taken_back(50, post(_INFER, b"{}")), (NOTHING,)),
    "half closed": Attack(half_closed(300, get(_LIVE))),
    "rows": Attack(asked(8, post(_PREDICT, rows)), (NOTHING, TINY)),
    "rows after spaces": Attack(asked(8, post(_PREDICT, rows_after_spaces)), (TINY,)),
    "rows of a health check": Attack(asked(8, post(_LIVE, rows))),
    "objects": Attack(asked(20, post(_INFER, _OBJECTS)), (TINY,)),
    "examples": Attack(asked(8, post(f"/v1/models/{MODEL}:classify", examples)), (TINY,)),
    "gzip of zeros": Attack(asked(8, post(_PREDICT, zeros, "Content-Encoding: gzip")), (NOBODY, TINY)),
    "everything at once": Attack(_everything),
}
