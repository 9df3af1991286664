"""uvicorn's HTTP connection, which reads a request's head and chunks by `head`, and bounds them while they come in."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Any

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.rest.head import Headers, Limits, Refused, check, check_name

#: How long a client that is refused may go on sending, so that it reads the answer and not a reset.
_LAST_WORDS_SECONDS = 1.0
_MIB = 1 << 20
#: Requests of one connection that wait for the one before them: each is an object of some 3 KB.
_MAX_PIPELINED = 1024
#: Looks for two spaces in what came at once: pretty-printed JSON is full of them.
_MAX_LOOKS = 256
_TWO_SPACES = "the request line has more than one space after its method"
#: While a client that has ended its side waits for its answer, this often.
_PROBE_SECONDS = 0.1
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: tcp_states.h: the other end has sent its FIN, we have not.
_CLOSE_WAIT = 8

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
        self._last_byte = b""

    def on_refused(self) -> None:
        """Called for each refusal."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        self._tls = _tls(transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._feed_line_by_line(data)
        self._last_byte = data[-1:]
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.header_bytes + self.limits.url_bytes and not self._is_refused:
                self._refuse(Refused(431, self._too_large()))

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio's
        """Keeps the connection where a whole request waits for its answer: it is only said to be the last one.

        A client that is gone looks alike. It is found by a 100 (Continue), which every client of HTTP/1.1 passes over
        (RFC 9110, section 15.2) and which a closed socket answers with a reset. TLS has no half of a connection.
        """
        cycle = self.cycle
        if self._is_refused or self._tls is not None or cycle is None or cycle.more_body or self._in_head:
            return False
        last = self.pipeline[0][0] if self.pipeline else cycle
        if last.response_complete:
            return False
        last.keep_alive = False
        self.loop.call_later(_PROBE_SECONDS, self._probe, cycle)
        return True

    def _probe(self, cycle: RequestResponseCycle) -> None:
        """Asks, before the answer begins, whether the client is still there."""
        if self.transport.is_closing():
            return
        connection = self.transport.get_extra_info("socket")
        if connection is None or _is_reset(connection):
            self.transport.abort()
            return
        if (
            self.cycle is cycle
            and not self.pipeline
            and not cycle.response_started
            and cycle.scope["http_version"] == "1.1"
        ):
            self.transport.write(_CONTINUE)
        self.loop.call_later(_PROBE_SECONDS, self._probe, self.cycle)

    def _feed_line_by_line(self, data: bytes) -> None:
        """Refuses a request line with two spaces after its method, which llhttp passes over.

        Wherever they could be, ``data`` is fed up to the first, and the parser tells whether it is in such a line.
        """
        fed = found = 0
        if self._last_byte == b" " and data.startswith(b" ") and self._is_before_url():
            self._refuse(Refused(400, _TWO_SPACES))
            return
        for _ in range(_MAX_LOOKS):
            found = data.find(b"  ", found)
            if found < 0:
                break
            if (data[found - 1 : found] or self._last_byte).isupper():
                self._feed(data[fed : found + 1])
                fed = found + 1
                if self._is_before_url() and not self._is_refused:
                    self._refuse(Refused(400, _TWO_SPACES))
                if self._is_refused:
                    return
            found += 1
        self._feed(data[fed:] if fed else data)

    def _is_before_url(self) -> bool:
        return self._in_head and not self.url

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
        if len(self.pipeline) >= _MAX_PIPELINED:
            # One read of the socket brings thousands, and each is an object that waits and time of the event loop.
            raise self._noted(Refused(400, "more requests are sent at once than a connection may"))
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


def _is_reset(connection: socket.socket) -> bool:
    """Whether the other end is gone altogether, after it had ended its side (Linux, tcp(7))."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _CLOSE_WAIT
    except OSError:
        return True


def _tls(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """ASGI's extension of that name. ``client_cert`` is ours: the client's certificate in its DER form."""
    layer: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if layer is None:
        return None
    cipher = layer.cipher()
    certificate = layer.getpeercert(binary_form=True)
    return {"client_cert": certificate, "tls_version": layer.version(), "cipher_suite": cipher[0] if cipher else None}
