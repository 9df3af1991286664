"""One HTTP connection, and how much of it a client may take: time, bytes and places.

uvicorn bounds none of them but the time between two requests: a head that never ends, a body of one byte a second and
an answer that nobody reads would each hold a connection, and what belongs to it, for ever.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import islice
from typing import Any, cast

import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from gateway.rest import asgi
from gateway.rest.handshake import Handshake
from gateway.rest.head import Limits
from gateway.rest.joined import Joined
from gateway.rest.places import Own, Places
from gateway.rest.room import Holding, Pace, Room
from gateway.rest.spread import Spread
from gateway.rest.strict import Strict
from gateway.security.proxies import Proxies
from gateway.security.shares import of_address

_SWEEP_SECONDS = 0.5
_CUTS_AT_A_TIME = 20
#: Ten thousand at once would hold everybody up for twenty milliseconds.
_LOOKS_AT_A_TIME = 250
_TURN_SECONDS = 0.005
#: What is told to somebody who is about to be cut off must be read within this time.
_LAST_WORDS_SECONDS = 5.0
#: While the server stops: how long a connection without a request may still bring one.
_LAST_REQUEST_SECONDS = 0.25
#: Input that may be dear is taken in bites: a kilobyte of the smallest chunks takes a millisecond.
_BITE_BYTES = 1 << 10
_LARGE_CHUNK_BYTES = 64
#: Of requests whose heads are larger than the first, so much may be held for one address: their heads come before
#: anybody can say who calls.
_LARGE_HEAD_BYTES = 4 << 10
_HEADS_BYTES_OF_ONE = 16 << 20
#: What a request that waits for the one before it holds besides its head.
_PIPELINED_BYTES = 3 << 10
_NO_ROOM_FOR_HEADS = "the headers of requests from one address hold as much as they may; send fewer at a time"
_CROWDED = "all connections that this gateway takes, or takes from one address, are in use; try again later"
_NO_ROOM = (
    "the gateway holds as many bytes of requests as it may, or as many as one caller or connection may while others "
    "need room; try again later"
)


@dataclass(frozen=True, slots=True)
class Patience:
    """``headers_seconds`` for a request's head, from its first byte on. Its body may take ``body_seconds``, and longer

    while it keeps coming at ``bytes_per_second``, taken over the last ``rate_seconds``. A slower one makes way as soon
    as its room is needed. An answer must get on at that rate within ``stall_seconds``. Between requests, and before the
    first, a connection may be silent for ``idle_seconds``.
    """

    headers_seconds: float = 5.0
    body_seconds: float = 30.0
    bytes_per_second: int = 10_000
    rate_seconds: float = 5.0
    stall_seconds: float = 30.0
    idle_seconds: float = 75.0


class _Reading(Enum):
    NOTHING = 0
    HEAD = 1
    BODY = 2


class Crowd:
    """All connections of one listener. ``on_cut`` is told the reason for which one is cut off, ``on_look`` now and then

    how many there are and how many bytes they hold.

    ``room`` bounds the bodies that are held for requests without an answer, ``max_connections`` the connections, and
    ``share`` those of one address. See `Places` for who makes way. Large heads of one address's requests may hold
    `_HEADS_BYTES_OF_ONE` together.
    ``proxies`` are believed about whom each request is for, and have no share of their own. ``spread`` is that of all
    listeners of one event loop.
    """

    def __init__(
        self,
        patience: Patience,
        *,
        max_connections: int,
        room: Room,
        share: float = 1.0,
        on_cut: Callable[[str], None],
        limits: Limits = Limits(),  # noqa: B008 - frozen
        on_look: Callable[[int, int], None] = lambda connections, held_bytes: None,
        proxies: Proxies | None = None,
        tls: ssl.SSLContext | None = None,
        spread: Spread | None = None,
    ) -> None:
        self._tls = tls
        self.patience = patience
        self.places: Places[Connection | Handshake] = Places(max_connections, share)
        self.room = room
        self.on_cut = on_cut
        self.limits = limits
        self.proxies = proxies
        self._on_look = on_look
        #: Those whose bodies hardly come, longest first.
        self.slow: dict[Connection, None] = {}
        self.spread = spread or Spread()
        #: While draining, an answer tells its client to take its next request elsewhere.
        self.draining = False
        self.connections: set[Connection] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    def protocol(self, **of_uvicorn: Any) -> Connection | Handshake:
        """Of a connection that has just been accepted."""
        if self._tls is not None:
            return Handshake(self, self._tls, partial(Connection, self, **of_uvicorn))
        return Connection(self, **of_uvicorn)

    def start(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()

    def make_room(self, holding: Holding, size: int) -> bool:
        """`Room.take` once more, after slow bodies have made way, a few at most."""
        for connection in list(islice(self.slow, _CUTS_AT_A_TIME)):
            if connection.make_way(holding) and self.room.take(holding, size):
                return True
        return False

    def _sweep(self) -> None:
        """One timer for all: a timer of each connection would cost more than its request's parsing."""
        self.start()  # first: whatever becomes of this look, there is a next one
        self._on_look(len(self.connections), self.room.held_bytes)
        self._look_at(list(self.connections))

    def _look_at(self, left: list[Connection]) -> None:
        """A thousand that came together are cut off in turns, so that nobody else waits for it."""
        loop, cuts = asyncio.get_running_loop(), 0
        now, rest = loop.time(), len(left) - _LOOKS_AT_A_TIME
        while left and cuts < _CUTS_AT_A_TIME and len(left) > rest:
            cuts += left.pop().look(now)
        if left:
            loop.call_later(_TURN_SECONDS, self._look_at, left)


class Connection(Strict):
    """Times are those of the event loop's clock."""

    def __init__(
        self,
        crowd: Crowd,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, limits=crowd.limits)
        self._crowd = crowd
        self._reading = _Reading.NOTHING
        self._since = 0.0
        self._pace = Pace(0.0)
        self._holding = Holding("")
        self._proxied: Proxies | None = None
        self._caller = ""
        self._own: Own[Connection | Handshake] = Own()
        self._heads = self._head_held = 0
        #: What waits for its turn: nothing may overtake it.
        self._input: deque[bytes | memoryview] = deque()
        self._is_held = False
        self._is_placed = False
        self._stuck: tuple[float, int] | None = None
        self._leaving_since: float | None = None
        self._answering: RequestResponseCycle | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        crowd = self._crowd
        crowd.connections.add(self)
        self._since = self.loop.time()
        host = self.client[0] if self.client else ""
        self._caller = self._holding.caller = of_address(host)
        self._proxied = crowd.proxies if crowd.proxies is not None and crowd.proxies.trusts(host) else None
        makes_way = crowd.places.enter(self, self._caller, shares=self._proxied is None)
        self._own = crowd.places.own(self._caller)
        self._is_placed = True
        if makes_way is self:
            self._cut("crowded", 503, _CROWDED)
            return
        if makes_way is not None:
            makes_way.cut("crowded")
        self._own.idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.connections.discard(self)
        self._crowd.slow.pop(self, None)
        self._leave_place()
        self._let_go()
        self._hold_head(0)
        super().connection_lost(exc)
        if self._answering is not None and self._task is not None and not self._answering.response_complete:
            # Nobody waits for the answer: what works on it need not go on.
            self._answering.disconnected = True
            cast(asgi.Scope, self._answering.scope)[asgi.GONE] = True
            self._task.cancel()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(asgi.Scope, self.scope)[asgi.BELONGS_TO] = self._belongs_to
        self._own.idle.pop(self, None)
        self._reading = _Reading.HEAD
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()  # unless the head is refused
        if self._proxied is not None:
            self._belongs_to(self._forwarded_for(self._proxied))
        self._reading = _Reading.BODY
        self._since = self.loop.time()
        self._pace = Pace(self._since)
        if self._headers_bytes > _LARGE_HEAD_BYTES or self.pipeline:
            self._heads += self._headers_bytes + (_PIPELINED_BYTES if self.pipeline else 0)
            self._hold_head(self._heads)
        if self._crowd.draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._pace.received_bytes += size
        if self.cycle.response_complete or self.transport.is_closing():
            return  # what is cut off is refused once, however many chunks had come by then
        if not self._crowd.room.take(self._holding, size) and not self._crowd.make_room(self._holding, size):
            self._cut("bytes", 503, _NO_ROOM)
            return
        super().on_body(body)

    def on_request_complete(self) -> None:
        self._reading = _Reading.NOTHING
        self._crowd.slow.pop(self, None)
        super().on_request_complete()

    def on_response_complete(self) -> None:
        self._let_go()
        self._since = self.loop.time()
        super().on_response_complete()
        if self._reading is _Reading.NOTHING and not self.pipeline and not self.transport.is_closing():
            self._own.idle[self] = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Not of a request that has just come: its turn is that of its bytes.
        late = cycle is not self.cycle and self._proxied is None
        if late and not self._crowd.spread.is_now(self._caller):
            self._crowd.spread.put_off(self._caller, partial(self._start, cycle, app))
        else:
            self._start(cycle, app)

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.transport.is_closing():
            return
        self._answering = cycle
        cycle.transport = Joined(self.transport, self.loop)  # type: ignore[assignment]  # all that a cycle uses
        self._task = task = self.loop.create_task(_run(cycle, app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def shutdown(self) -> None:
        """Lets go of an idle connection a little later: its client may just have sent a request, and would lose it."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_REQUEST_SECONDS, self._leave)
        else:
            self.cycle.keep_alive = False

    def _leave(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self._reading is _Reading.NOTHING:
            self.transport.close()

    def look(self, now: float) -> bool:
        """Cuts the connection off where its client takes longer than it may, and tells whether it did."""
        patience, passed = self._crowd.patience, now - self._since
        if self.transport.is_closing():
            self._leaving_since = self._leaving_since or now
            if now - self._leaving_since > min(_LAST_WORDS_SECONDS, patience.stall_seconds):
                self.transport.abort()
            return False
        if self._is_stuck(now):
            self._cut("stalled")
        elif self in self._own.idle:
            if passed > patience.idle_seconds:
                self._cut("idle")
        elif self._reading is _Reading.HEAD:
            if passed > patience.headers_seconds:
                self._cut("headers", 408, "the request's head took too long")
        elif self._reading is _Reading.BODY:
            self._look_at_body(now, passed)
        return self.transport.is_closing()

    def _look_at_body(self, now: float, passed: float) -> None:
        patience, slow = self._crowd.patience, False
        if self.flow.read_paused:
            self._pace.pause(now)
        elif self.cycle.response_complete:
            # An answer that came before the body's end has been sent: what still comes is read for a moment only, so
            # that the client sees the answer and not a reset.
            if passed > _LAST_WORDS_SECONDS:
                self._cut("body")
        else:
            rate, window = patience.bytes_per_second, patience.rate_seconds
            slow = self._pace.is_slow(now, bytes_per_second=rate, window_seconds=window)
            if slow and passed > patience.body_seconds:
                self._cut("body", 408, "the request's body took too long")
        if slow and passed > min(patience.rate_seconds, patience.body_seconds):
            self._crowd.slow[self] = None
        else:
            self._crowd.slow.pop(self, None)

    def _is_stuck(self, now: float) -> bool:
        """Whether what was written leaves too slowly."""
        waiting = self.transport.get_write_buffer_size()
        if not waiting:
            self._stuck = None
            return False
        if self._stuck is None:
            self._stuck = now, waiting
            return False
        since, before = self._stuck
        if waiting <= before - self._crowd.patience.bytes_per_second * (now - since):
            self._stuck = now, waiting
            return False
        return now - since > self._crowd.patience.stall_seconds

    def resume_writing(self) -> None:
        self._stuck = None
        super().resume_writing()

    def on_refused(self) -> None:
        self._crowd.on_cut("refused")

    def _cut(self, reason: str, status: int = 0, message: str = "") -> None:
        """Tells why, where nothing was answered yet, and closes."""
        self._crowd.on_cut(reason)
        self._leave_place()
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not status or answering or (self.cycle is not None and self.pipeline):
            self.transport.abort()
            return
        if self.cycle is None or not self.cycle.response_complete or self._reading is _Reading.HEAD:
            self.transport.write(_refusal(status, message))
        if self.cycle is not None and not self.cycle.response_complete:
            # The request's own answer must not follow.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def make_way(self, holding: Holding) -> bool:
        """Cuts the connection off if its slow body should leave its room to ``holding``, and returns whether it did."""
        if self.transport.is_closing() or not self._crowd.room.makes_way(self._holding, holding):
            return False
        self._cut("body", 408, "the request's body came too slowly while others needed its room")
        self._let_go()
        return True

    def _belongs_to(self, caller: str) -> None:
        """What this connection holds is held for ``caller``, which is known by now."""
        self._crowd.room.move(self._holding, caller)

    def _forwarded_for(self, proxies: Proxies) -> str:
        """Whose request it is, as the proxy tells."""
        name = proxies.header.encode()
        values = [value.decode("latin-1") for key, value in self.headers if key == name]
        return proxies.caller(self.client[0] if self.client else "", values)

    def _let_go(self) -> None:
        self._crowd.room.give_back(self._holding)
        if self._head_held and not self.pipeline:
            self._heads = 0
            self._hold_head(0)
            if self.cycle is not None and self.cycle.response_complete and self._reading is _Reading.NOTHING:
                # uvicorn keeps the last request, for as long as the connection is idle.
                self.headers, self.scope, self.cycle.scope = [], {}, {}  # type: ignore[typeddict-item]

    @property
    def is_waiting(self) -> bool:
        """For more of a request, or for an answer to be read."""
        return self._reading is not _Reading.NOTHING or self.transport.get_write_buffer_size() > 0

    def data_received(self, data: bytes) -> None:
        # A proxy's callers are many: it is not put off.
        if not self._input and (self._proxied is not None or self._crowd.spread.is_now(self._caller, len(data))):
            self._receive(data)
        else:
            self._input.append(data)
            self._wait(len(data))

    def _wait(self, size: int) -> None:
        if len(self._input) > 1 or size > _BITE_BYTES:  # who waits for its answer sends no more meanwhile
            self._is_held = True
            self.transport.pause_reading()
        self._crowd.spread.put_off(self._caller, self._receive_late, size)

    def _receive_late(self) -> None:
        data = self._input.popleft()
        if not self.transport.is_closing():
            self._receive(data)
            if self._is_held and not self.flow.read_paused and not self._input:
                self._is_held = False
                self.transport.resume_reading()

    def _receive(self, data: bytes | memoryview) -> None:
        """A bite of ``data``, if it may be dear, and the rest in turns to come."""
        if len(data) > _BITE_BYTES and self._is_dear() and self._may_be_put_off(len(data)):
            view = memoryview(data)
            self._input.appendleft(view[_BITE_BYTES:])
            self._wait(len(data) - _BITE_BYTES)
            data = view[:_BITE_BYTES]
        super().data_received(data if isinstance(data, bytes) else bytes(data))
        if self._in_head and self._head_bytes > _LARGE_HEAD_BYTES:
            self._hold_head(self._heads + self._head_bytes)

    def _may_be_put_off(self, size: int) -> bool:
        spread = self._crowd.spread
        return self._proxied is None and spread.is_crowded and spread.has_room(self._caller, size)

    def _is_dear(self) -> bool:
        """Whether bytes cost more than their number says: what a request begins with, and small chunks."""
        if self._reading is not _Reading.BODY:
            return True
        return self._chunks > 0 and self._chunked_bytes < _LARGE_CHUNK_BYTES * self._chunks

    def cut(self, reason: str) -> None:
        """At once, and without a word."""
        self._cut(reason)

    def _hold_head(self, size: int) -> None:
        """What requests' heads hold is ``size`` bytes now. Cuts the connection off where that is too much."""
        own = self._own
        own.head_bytes += size - self._head_held
        self._head_held = size
        if size and own.head_bytes > _HEADS_BYTES_OF_ONE and self._proxied is None and not self.transport.is_closing():
            # Given back first: another head, which comes meanwhile, is not refused for this one.
            self._heads = 0
            self._hold_head(0)
            self._cut("bytes", 503, _NO_ROOM_FOR_HEADS)

    def _leave_place(self) -> None:
        if self._is_placed:
            self._is_placed = False
            self._crowd.places.leave(self, self._caller)


async def _run(cycle: RequestResponseCycle, app: asgi.App) -> None:
    """As uvicorn runs it, but that a client's going is no error of ours."""

    async def until_gone(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if asgi.GONE not in scope:
                raise

    await cycle.run_asgi(until_gone)  # type: ignore[arg-type]  # uvicorn's own ASGI types


def _refusal(status: int, message: str) -> bytes:
    body = orjson.dumps({"error": message})
    line = "408 Request Timeout" if status == 408 else "503 Service Unavailable\r\nretry-after: 1"
    head = (
        f"HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
