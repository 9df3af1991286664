"""uvicorn's HTTP connection, which reads a request's head and chunks by `head`, and bounds them while they come in."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.rest.head import Headers, Limits, Refused, check, check_name

#: How long a client that is refused may go on sending, so that it reads the answer and not a reset.
_LAST_WORDS_SECONDS = 1.0
_MIB = 1 << 20

_HTTP2 = "this port speaks HTTP/1.1, not HTTP/2; send HTTP/1.1 here, and gRPC to its own port (grpc.port)"

#: uvicorn warns of each request that is no HTTP: whoever sends them could fill a disk.
_log = logging.getLogger("duet.http")
_log.setLevel(logging.ERROR)


class Strict(HttpToolsProtocol):
    """``limits`` bound each request's head, and the chunks of its body."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = limits
        self.logger = _log
        self._refusal = Refused(400, "the request is no valid HTTP")
        self._is_refused = False
        self._in_head = False
        self._head_bytes = self._headers_bytes = self._headers_count = 0
        self._chunks = self._chunked_bytes = 0
        self._tls: dict[str, Any] | None = None
        self._is_offer = False

    def on_refused(self) -> None:
        """Called for each refusal."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        self._tls = _tls(transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes + self.limits.url_bytes and not self._is_refused:
                self._refuse(Refused(431, self._too_large()))

    def _feed(self, data: bytes) -> None:
        left: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(left)
                return
            except httptools.HttpParserError:
                if self.parser.get_method() == b"PRI":
                    self._noted(Refused(400, _HTTP2))
                self.send_400_response("")
                return
            except httptools.HttpParserUpgrade as offer:
                # llhttp takes every offer, and would leave the body to the other protocol.
                left = memoryview(left)[offer.args[0] :]
                self.parser = self._resumed()

    def _resumed(self) -> Any:
        """The parser that reads on after a head with an offer of another protocol, which is ignored (RFC 9110, 7.8)."""
        self._is_offer = False
        resumed = _Resumed(self)
        parser = httptools.HttpRequestParser(resumed)
        parser.feed_data(_framing(self.headers, last=not self.parser.should_keep_alive()))
        resumed.is_on = True
        return parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._headers_bytes = self._headers_count = 0
        if self._tls is not None:
            self.scope["extensions"] = {"tls": self._tls}  # type: ignore[dict-item]  # wider than uvicorn's type

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            raise self._noted(Refused(414, f"the URL is longer than {self.limits.url_bytes} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_count += 1
        # With the colon, the space and the end of the line.
        self._headers_bytes += len(name) + len(value) + 4
        if self._headers_count > self.limits.headers or self._headers_bytes > self.limits.header_bytes:
            raise self._noted(Refused(431, self._too_large()))
        if not self._in_head:
            return  # a trailer: the head has been checked without it
        try:
            check_name(name)
        except Refused as refusal:
            raise self._noted(refusal) from None
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        try:
            check(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        except Refused as refusal:
            raise self._noted(refusal) from None
        self._in_head = False
        self._chunks = self._chunked_bytes = 0
        self._is_offer = self.parser.should_upgrade()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._is_offer:  # after an offer, llhttp says so before the body
            self.on_request_complete()

    def on_request_complete(self) -> None:
        """All of the request has come."""
        super().on_message_complete()

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self.limits.chunks_per_mib * (1 + self._chunked_bytes // _MIB):
            raise self._noted(Refused(400, "the body comes in too many chunks"))

    def on_body(self, body: bytes) -> None:
        self._chunked_bytes += len(body)
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where the parser, or one of the checks above, fails."""
        self._refuse(self._refusal)

    def _noted(self, refusal: Refused) -> Refused:
        self._refusal = refusal
        return refusal

    def _refuse(self, refusal: Refused) -> None:
        """Answers in place of the application, unless that would be taken for the answer to a request before."""
        self._is_refused = True
        self.on_refused()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self._in_head or not cycle.more_body:
                # Those before were whole, and are answered; then the connection ends.
                last = self.pipeline[0][0] if self.pipeline else cycle
                last.keep_alive = False
                return
            started = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
            if started or self.pipeline:
                self.transport.abort()
                return
        elif cycle is not None and cycle.more_body and not self._in_head:
            self.transport.close()  # it was answered before its body came
            return
        self.transport.write(_answer(refusal, self.url if self.scope else b""))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_LAST_WORDS_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def _too_large(self) -> str:
        return f"the headers are more than {self.limits.headers}, or than {self.limits.header_bytes} bytes"


class _Resumed:
    """Called by a parser in place of ``connection``, and calls it once ``is_on``: not for what it was told by us."""

    def __init__(self, connection: Strict) -> None:
        self._connection = connection
        self.is_on = False

    def on_message_begin(self) -> None:
        if self.is_on:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.is_on:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_on:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.is_on:
            self._connection.on_headers_complete()

    def on_chunk_header(self) -> None:
        self._connection.on_chunk_header()

    def on_body(self, body: bytes) -> None:
        self._connection.on_body(body)

    def on_message_complete(self) -> None:
        self._connection.on_message_complete()


def _framing(headers: Headers, *, last: bool) -> bytes:
    """A head that frames a body as ``headers`` do, which have passed `check`. ``last``: the connection ends then."""
    framed = [b"%b: %b" % field for field in headers if field[0] in (b"content-length", b"transfer-encoding")]
    return b"\r\n".join([b"POST / HTTP/1.1", *framed, *([b"connection: close"] if last else []), b"", b""])


def _answer(refusal: Refused, url: bytes) -> bytes:
    """In the shape of TorchServe's errors on its paths, and otherwise of everybody else's."""
    body = orjson.dumps({"error": refusal.message})
    if url.startswith(b"/predictions"):
        body = orjson.dumps({"code": refusal.status, "type": "BadRequestException", "message": refusal.message})
    return b"".join(
        (
            STATUS_LINE[refusal.status],
            b"content-type: application/json\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n",
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            body,
        )
    )


def _tls(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """ASGI's extension of that name. ``client_cert`` is ours: the client's certificate in its DER form."""
    layer: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if layer is None:
        return None
    cipher = layer.cipher()
    certificate = layer.getpeercert(binary_form=True)
    return {"client_cert": certificate, "tls_version": layer.version(), "cipher_suite": cipher[0] if cipher else None}
