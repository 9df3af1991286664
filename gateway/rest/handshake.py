"""A connection over TLS until its handshake is over. It has a place, and a time, from its first moment on.

asyncio tells a protocol of a connection when the handshake is done. Whoever never ends one would hold a socket and
57 KiB for a minute each, and be counted nowhere.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from gateway.security.shares import of_address

if TYPE_CHECKING:
    from gateway.rest.connection import Connection, Crowd

_HANDED_BYTES = 1 << 14


class Handshake(asyncio.Protocol):
    """Gives way to the connection that ``make`` makes. It may be cut like one that is idle."""

    is_waiting = True

    def __init__(self, crowd: Crowd, context: ssl.SSLContext, make: Callable[[], Connection]) -> None:
        self._crowd = crowd
        self._context = context
        self._make = make
        self._caller = ""
        self._is_placed = False
        self._received: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        host = peer[0] if peer else ""
        self._caller = of_address(host)
        proxies = self._crowd.proxies
        shares = proxies is None or not proxies.trusts(host)
        makes_way = self._crowd.places.enter(self, self._caller, shares=shares)
        self._is_placed = True
        if makes_way is self:
            self.cut("crowded")
            return
        if makes_way is not None:
            makes_way.cut("crowded")
        self._crowd.places.own(self._caller).idle[self] = None
        self._task = asyncio.get_running_loop().create_task(self._shake())

    def data_received(self, data: bytes) -> None:
        """What comes before TLS begins to read, or between the handshake's end and our noticing it."""
        self._received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_place()

    def cut(self, reason: str) -> None:
        self._crowd.on_cut(reason)
        self._leave_place()
        self._transport.abort()

    async def _shake(self) -> None:
        try:
            secure = await self._secured()
        except OSError:  # ssl.SSLError is one, and so is what a timeout raises
            self._transport.abort()
            return
        except RuntimeError:  # uvloop's, of a transport that was cut off meanwhile
            if not self._transport.is_closing():
                raise
            return
        finally:
            self._leave_place()
        if secure is None or secure.is_closing():
            return
        connection = self._make()
        secure.set_protocol(connection)
        connection.connection_made(secure)
        for data in self._received:
            connection.data_received(data)

    async def _secured(self) -> asyncio.Transport | None:
        """None, or a transport that is closing, where the client left."""
        if self._transport.is_closing():
            return None
        loop, seconds = asyncio.get_running_loop(), self._crowd.patience.headers_seconds
        # Not sooner: an event loop begins to read when it has told of the connection, whatever it was told then.
        self._transport.pause_reading()
        begun = loop.create_task(
            loop.start_tls(self._transport, self, self._context, server_side=True, ssl_handshake_timeout=seconds)
        )
        # `start_tls` has two calls made in the turn after its own: TLS learns of its connection, and reading goes on.
        # What came before has to be told after the one and before what is read by the other.
        early, self._received = b"".join(self._received), []
        if early:
            loop.call_soon(loop.call_soon, self._hand_over, early)
        return await begun

    def _hand_over(self, early: bytes) -> None:
        tls = cast("asyncio.BufferedProtocol", self._transport.get_protocol())
        while early and not self._transport.is_closing():
            size = min(len(early), _HANDED_BYTES)
            memoryview(tls.get_buffer(size))[:size] = early[:size]
            tls.buffer_updated(size)
            early = early[size:]

    def _leave_place(self) -> None:
        if self._is_placed:
            self._is_placed = False
            self._crowd.places.leave(self, self._caller)
