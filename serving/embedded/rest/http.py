"""The HTTP server: reads a request whole, within bounds, and has it answered in a thread."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import zlib
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import uvicorn

from serving.embedded.budget import Budget, Claim, Crowded
from serving.embedded.rest.connection import Connection
from serving.embedded.rest.routes import Answer, Routes, failure

#: The real server has no limit; ours keeps one request from taking all memory, since Python's numbers are large.
MAX_BODY_BYTES = 64 << 20
#: All bodies and answers together that are on their way in or out.
MAX_BUFFERED_BYTES = 512 << 20
#: Bodies above this are worked on one after the other: as Python's numbers they take thirty times their size.
LARGE_BYTES = 1 << 20
_CHUNK_BYTES = 256 << 10
#: A body may take as long as so many of its pieces: who sends a byte now and then is not waited for either.
_PIECES_IN_TIME = 10
_ORIGIN = re.compile(r"https?://", re.I)

log = logging.getLogger("serving.embedded")
Headers = Mapping[bytes, bytes]
Page = Callable[[], tuple[bytes, str]]


class TooLarge(Exception):
    """The body, or what it unpacks to, is over the limit."""


class App:
    """An ASGI application. ``pages`` are further GET paths: bodies and their types.

    ``timeout_seconds`` bounds the work, and how long each piece of the body, or of the answer, may take on its way.
    """

    def __init__(
        self, routes: Routes, *, threads: int, timeout_seconds: float, cors: bool, pages: Mapping[str, Page]
    ) -> None:
        self._routes = routes
        self._timeout_seconds = timeout_seconds
        self._cors = cors
        self._pages = pages
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="rest-large")
        self._budget = Budget(MAX_BUFFERED_BYTES)

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        if scope["type"] != "http":
            return
        headers: Headers = dict(scope["headers"])
        with self._budget.claim() as claim:
            try:
                answer = await self._answer(scope, headers, receive, claim)
                claim.add(len(answer.body))
            except TooLarge:
                message = f"the body is over the limit of {MAX_BODY_BYTES} bytes; send fewer rows at once"
                answer = failure(grpc.StatusCode.INVALID_ARGUMENT, message)
            except Crowded as error:
                answer = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            except ConnectionError:
                return
            try:
                extra = self._extra(headers) if answer.status != 408 else [(b"connection", b"close")]
                await _send(send, answer, extra, self._timeout_seconds)
            except TimeoutError:
                scope["extensions"]["abort"]()  # or what is not sent stays in memory for as long as the client likes

    async def _answer(
        self, scope: Any, headers: Headers, receive: Callable[[], Awaitable[Any]], claim: Claim
    ) -> Answer:
        method = scope["method"]
        if method == "OPTIONS":
            return Answer(200 if _ORIGIN.search(_origin(headers)) else 400, b"")
        try:
            async with asyncio.timeout(self._timeout_seconds * _PIECES_IN_TIME):
                body = await _body(headers, receive, claim, self._timeout_seconds)
        except TimeoutError:
            return Answer(408, failure(grpc.StatusCode.DEADLINE_EXCEEDED, "the body did not come in time").body)
        path = scope["raw_path"].decode("latin-1")
        if method == "GET" and path in self._pages:
            content, kind = self._pages[path]()
            return Answer(200, content, kind)
        query = scope["query_string"].decode("latin-1")
        target = f"{path}?{query}" if query else path
        threads = self._large if len(body) > LARGE_BYTES else self._threads
        work = asyncio.get_running_loop().run_in_executor(threads, self._guarded, method, target, body)
        try:
            return await asyncio.wait_for(work, self._timeout_seconds)
        except TimeoutError:
            return failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")

    def _guarded(self, method: str, target: str, body: bytes) -> Answer:
        try:
            return self._routes.answer(method, target, body)
        except Exception:
            log.exception("a call failed")
            return failure(grpc.StatusCode.INTERNAL, "the server failed on this request")

    def _extra(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        if not self._cors:
            return []
        return [
            (b"access-control-allow-origin", b"*"),
            (b"access-control-allow-methods", b"POST, GET, OPTIONS"),
            (b"access-control-allow-headers", b"Content-Type"),
        ]


class HttpServer:
    """Uvicorn in a thread of its own."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        settings = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_level="critical",
            access_log=False,
            server_header=False,
            backlog=4096,
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="http", daemon=True
        )
        self._thread.start()

    def stop(self, grace_seconds: float) -> None:
        self._server.should_exit = True
        self._thread.join(grace_seconds)


def listener(host: str, port: int) -> socket.socket:
    """Raises OSError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=4096)


async def _body(headers: Headers, receive: Callable[[], Awaitable[Any]], claim: Claim, piece_seconds: float) -> bytes:
    """Raises TooLarge, Crowded, ConnectionResetError, and TimeoutError if nothing comes for so long."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise TooLarge
    parts, size = [], 0
    while True:
        async with asyncio.timeout(piece_seconds):
            event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError
        part = event.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise TooLarge
        claim.add(len(part))
        parts.append(part)
        if not event.get("more_body"):
            break
    body = b"".join(parts)
    if headers.get(b"content-encoding", b"").lower() != b"gzip":
        return body
    plain = _unpacked(body)
    claim.add(len(plain))
    return plain


def _unpacked(body: bytes) -> bytes:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = stream.decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        return body  # as it came: the real server goes on with it, and JSON will not be found in it
    if stream.unconsumed_tail:
        raise TooLarge
    return plain


def _origin(headers: Headers) -> str:
    return headers.get(b"origin", b"").decode("latin-1")


async def _send(
    send: Callable[[Any], Any], answer: Answer, extra: list[tuple[bytes, bytes]], piece_seconds: float
) -> None:
    """Piece by piece, as the client takes it. Raises TimeoutError if it takes none for so long."""
    headers = [(b"content-length", str(len(answer.body)).encode()), *extra]
    if answer.body or answer.status == 200:
        headers.append((b"content-type", answer.content_type.encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    for start in range(0, max(len(answer.body), 1), _CHUNK_BYTES):
        end = start + _CHUNK_BYTES
        piece = {"body": answer.body[start:end], "more_body": end < len(answer.body)}
        async with asyncio.timeout(piece_seconds):
            await send({"type": "http.response.body", **piece})
