"""A connection that is given only so much time and memory for the head of a request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Request line and headers together, as most servers have it.
MAX_HEAD_BYTES = 64 << 10
#: Between connecting, or the answer before, and the end of the next head.
HEAD_SECONDS = 30.0


class Connection(HttpToolsProtocol):
    """Uvicorn's, which by itself waits for ever for a head, and holds one of any length.

    ``scope["extensions"]["abort"]`` is a function that drops the connection with all that is not sent yet.
    """

    head_seconds = HEAD_SECONDS
    _late: asyncio.TimerHandle | None = None
    _in_head, _head_bytes = False, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the head is over the limit of {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_there()
        extensions: Any = self.scope
        extensions["extensions"] = {"abort": self.transport.abort}
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._head_is_there()
        self._late = self.loop.call_later(self.head_seconds, self._give_up)

    def _head_is_there(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        if self._in_head:
            self._refuse(408, f"the head did not come within {self.head_seconds:g} seconds")
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self._in_head = False
        if self.transport.is_closing():
            return
        body = json.dumps({"error": message}, indent=4).encode()
        phrase = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}[status]
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
            % (status, phrase, len(body), body)
        )
        self.transport.close()
