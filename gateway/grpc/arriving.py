"""Bytes that came over gRPC's connections and are no whole message yet.

C core takes in a message of an open stream without a word until it is whole, and the stream's reading looks like
waiting for it. It never speaks of frames that are no message. But the kernel counts what came over a connection
(``TCP_INFO``), and what was handed over is known here. The difference is what C core holds, or has thrown away.

Two rules follow from it:

- Since a stream's read began, at most so much of its message has come. Streams of one caller for which that is more
  than the caller's share end, those with the most of it first; so do streams for which it is much for too long.
- A connection over which much comes that is no message is cut.

A message that was handed over proves that nothing older is held for its stream, so streams that go on count from their
last message. What a call needs beside its messages is let pass: `_HEAD_BYTES` for the first rule, and generously for
the second, where bytes cost no memory.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from time import thread_time
from typing import Any, TypeAlias, cast

import grpc.aio

from gateway.errors import ResourceExhausted
from gateway.grpc.crowding import Places, beyond
from gateway.grpc.sockets import Connected, Look, Peer, can_count, counts, end, listeners, look_around, peer_of, shut
from gateway.security.proxies import Proxies
from gateway.security.shares import of_address

log = logging.getLogger("duet.grpc")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

#: Between two looks at all connections; at those over which something came for an open stream.
_SWEEP_SECONDS = 0.5
_TICK_SECONDS = 0.02
#: Looking takes at most this part of the time.
_MOST_OF_TIME = 0.05
_LOOKS_AT_A_TIME = 250

#: A call's head and its frames, where it is small.
_HEAD_BYTES = 128
#: Less than that is no reason to end a stream: what one may send before anybody reads it.
_SMALL_BYTES = 64 << 10
#: A stream that was told to end has this time, until its connection is cut.
_LEAVE_SECONDS = 2.0
_PLACES = Places()

#: Of a connection: what may come that is no message, at once and each second, and beside each call: a message that is
#: refused (a stream's window), its head; and what part of the bytes that the client takes it may send to widen windows.
_FLOOD_BYTES = 4 << 20
_FLOOD_BYTES_OF_PROXY = 64 << 20
_FLOOD_BYTES_A_SECOND = 16 << 10
_FLOOD_BYTES_A_CALL = 80 << 10
_TAKEN_TO_WIDENED = 64


class Withheld(ResourceExhausted):
    """A stream ends because of what has come of its messages, or of others on its connection."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """``each`` is what a caller's streams may hold of messages that are not whole, ``total`` those of all callers.

    A stream for which more than a quarter of ``each`` has come ends after ``seconds`` without a whole message.
    """

    each: int = 32 << 20
    total: int = 128 << 20
    seconds: float = 30.0
    max_message_bytes: int = 16 << 20


class Line:
    """One connection. ``reading`` counts the bytes that messages of unary calls may have, which are being read.

    ``abandoned`` counts the messages that never came as a whole: calls that were cancelled, or were late.
    """

    __slots__ = (
        "abandoned",
        "armed",
        "caller",
        "calls",
        "cut",
        "level",
        "proxy",
        "reading",
        "received",
        "seen",
        "socket",
        "streams",
        "taken",
        "whole",
    )

    def __init__(self, caller: str) -> None:
        #: Whom its address stands for.
        self.caller = caller
        self.calls = self.reading = self.abandoned = self.level = 0
        #: Bytes: that came, that the client took, and of messages that were handed over with their frames.
        self.received = self.taken = self.whole = 0
        #: The address of a trusted proxy, whose connection carries many callers.
        self.proxy: str | None = None
        self.socket: Connected | None = None
        self.armed = self.cut = False
        #: Open streams that are being read, in the order in which their reads began.
        self.streams: dict[Stream, None] = {}
        #: What `flooded` saw the last time.
        self.seen = (0, 0, 0, 0, 0)

    @property
    def left(self) -> int:
        """What came and was not handed over, since the connection began."""
        return self.received - self.whole - self.calls * _HEAD_BYTES

    def handed_over(self, size: int) -> None:
        """A message of that size. Its frames and TLS add to it."""
        self.whole += size + (size >> 6) + 64

    def look(self) -> None:
        if self.socket is not None:
            try:
                self.taken, self.received = counts(self.socket.sock)
            except OSError:  # the core has closed it
                self.forget()

    def settle(self) -> None:
        """To be called after `look`. More may have been handed over than came, since messages were compressed.

        That makes no room for what comes later.
        """
        left = self.left
        for stream in self.streams:
            stream.begun = min(stream.begun, left)

    def forget(self) -> None:
        """Lets go of the socket, which is the core's."""
        if self.socket is not None:
            self.socket.sock.detach()
            self.socket = None
            self.armed = False

    def most(self, *, ended: bool = False) -> int:
        """The most that can have come of a message that is not whole, without or with streams that were ended."""
        return next((stream.held for stream in self.streams if ended or stream.why is None), 0)

    def flooded(self, passed: float, message_bytes: int) -> int:
        """How much more has come than messages and what belongs to calls. To be asked after ``passed`` seconds each.

        Abandoned messages may have come nearly as a whole.
        """
        now = self.received, self.whole, self.calls, self.taken, self.abandoned
        received, whole, calls, taken, abandoned = (new - old for new, old in zip(now, self.seen, strict=True))
        self.seen = now
        beside = calls * _FLOOD_BYTES_A_CALL + taken // _TAKEN_TO_WIDENED + int(passed * _FLOOD_BYTES_A_SECOND)
        self.level = max(0, self.level + received - whole - beside - abandoned * message_bytes)
        return self.level


class Stream:
    """An open stream. ``begun`` is what `Line.left` was when its read began, ``big_since`` says when much had come.

    ``why`` says why it was ended, and ``ended`` when.
    """

    __slots__ = ("_of", "begun", "big_since", "caller", "ended", "line", "task", "why")

    def __init__(self, of: Arriving, line: Line, caller: str) -> None:
        self._of = of
        self.begun = 0
        self.line = line
        self.caller = caller
        self.task: asyncio.Task[Any] | None = None
        self.why: Withheld | None = None
        self.ended = self.big_since = 0.0

    @property
    def held(self) -> int:
        """The most that can have come of its message."""
        return self.line.left - self.begun - self.line.reading

    def reads(self, task: asyncio.Task[Any]) -> None:
        """``task`` waits for the stream's next message: what has come before is no part of it."""
        line = self.line
        line.look()
        # A connection whose socket is not found yet is new: all that came counts.
        self.begun = line.left if line.socket is not None else 0
        self.task, self.big_since = task, 0.0
        line.streams[self] = None
        if not line.armed:
            self._of.touch(line)

    def has_read(self, size: int) -> None:
        """It has come. Raises Withheld where the stream was ended meanwhile."""
        self.line.handed_over(size)
        if self.why is not None:
            raise self.why
        del self.line.streams[self]

    def leaves(self) -> None:
        if self in self.line.streams:
            del self.line.streams[self]
            self.line.abandoned += self.why is None

    def end(self, now: float, text: str) -> None:
        if self.why is None:
            self.line.abandoned += 1
            self.why = Withheld(f"{text}; send fewer or smaller messages at a time", retry_after_seconds=1)
            self.ended = now
            if self.task is not None:
                self.task.cancel()


@dataclass(frozen=True, slots=True)
class _Holding:
    """What a caller's streams may hold on one connection: as much as the one of them that has waited for longest."""

    line: Line
    caller: str
    size: int

    def streams(self) -> list[Stream]:
        return [stream for stream in self.line.streams if _holder(stream) == self.caller and _holds(stream)]


def over(lines: Iterable[Line], bounds: Bounds, now: float) -> dict[Stream, str]:
    """The streams that end, and why: of callers beyond their share, of all callers together, and the late ones."""
    most: dict[tuple[Line, str], int] = {}
    ends: dict[Stream, str] = {}
    for line in lines:
        for stream in line.streams:
            if _holds(stream):
                key = line, _holder(stream)
                most[key] = max(most.get(key, 0), stream.held)
                if _is_late(stream, bounds, now):
                    ends[stream] = f"a message had not come within {bounds.seconds:g} s (grpc.receive_seconds)"
    callers: dict[str, list[_Holding]] = defaultdict(list)
    for (line, caller), size in most.items():
        callers[caller].append(_Holding(line, caller, size))
    left: list[_Holding] = []
    what = "bytes of messages that are not whole"
    for all_of_one in callers.values():
        most_of_one = bounds.total if all_of_one[0].line.proxy else bounds.each
        beyond, within = _split(all_of_one, most_of_one)
        left += within
        for holding in beyond:
            ends |= dict.fromkeys(holding.streams(), f"one caller's streams may hold {most_of_one} {what}")
    for holding in _split(left, bounds.total)[0]:
        ends |= dict.fromkeys(holding.streams(), f"all streams may hold {bounds.total} {what}")
    return ends


def _holder(stream: Stream) -> str:
    """Who is bounded. Behind a proxy, one caller's bytes cannot be told from another's: the proxy is."""
    return stream.line.caller if stream.line.proxy else stream.caller


def _holds(stream: Stream) -> bool:
    return stream.why is None and stream.held > _SMALL_BYTES


def _is_late(stream: Stream, bounds: Bounds, now: float) -> bool:
    if stream.held <= bounds.each // 4:
        stream.big_since = 0.0
        return False
    stream.big_since = stream.big_since or now
    return now - stream.big_since > bounds.seconds


def _split(holdings: Collection[_Holding], most: int) -> tuple[list[_Holding], list[_Holding]]:
    """Those that are too much, the largest first, and the rest, which hold at most ``most`` together."""
    total = sum(holding.size for holding in holdings)
    if total <= most:
        return [], list(holdings)
    by_size = sorted(holdings, key=lambda holding: -holding.size)
    count = 0
    while total > most:
        total -= by_size[count].size
        count += 1
    return by_size[:count], by_size[count:]


def _timed_look(known: Mapping[int, int], ports: Collection[int]) -> tuple[Look, float]:
    begun = thread_time()
    return look_around(known, ports), thread_time() - begun


class Arriving:
    """All gRPC connections of one process. ``on_cut`` hears of each that is cut, by the reason.

    Nothing is bounded before `start`, nor on systems that do not count (`can_count`), which `start` says.
    """

    def __init__(
        self,
        bounds: Bounds = Bounds(),
        *,
        on_cut: Callable[[str], None] = lambda reason: None,
        proxies: Proxies | None = None,
        places: Places = _PLACES,
    ) -> None:
        self._bounds = bounds
        self._places = places
        self._proxies = proxies
        self._on_cut = on_cut
        self._ports: set[int] = set()
        #: By gRPC's name of its client, by the client's address, and by its descriptor.
        self._by_name: dict[str, Line] = {}
        self._by_peer: dict[Peer, Line] = {}
        self._by_number: dict[int, Line] = {}
        #: All sockets of the process: descriptor -> inode.
        self._known: dict[int, int] = {}
        #: With open streams: over which something came since they were looked at, and which may hold much.
        self._touched: dict[Line, None] = {}
        self._holding: dict[Line, None] = {}
        self._wake: select.epoll | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._sweep_soon = asyncio.Event()
        self._cutting: set[asyncio.Future[None]] = set()

    def listen(self, port: int) -> None:
        self._ports.add(port)

    def start(self) -> None:
        if not can_count():
            log.warning("this system does not count what comes over connections: streams' messages are not bounded")
            return
        self._wake = select.epoll()
        asyncio.get_running_loop().add_reader(self._wake.fileno(), self._woken)
        # One event for all connections that came since the last one: which are too many is found out soon.
        for number in listeners(self._ports):
            self._wake.register(number, select.EPOLLIN | select.EPOLLET)
        self._sweeping = asyncio.create_task(self._sweep())

    def close(self) -> None:
        if self._wake is None:
            return
        asyncio.get_running_loop().remove_reader(self._wake.fileno())
        self._wake.close()
        self._wake = None
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._ticking is not None:
            self._ticking.cancel()
        for line in self._by_number.values():
            line.forget()

    def call(self, context: Context) -> Line:
        """The connection of a call that begins."""
        name = context.peer()
        line = self._by_name.get(name)
        if line is None:
            line = self._named(name)
        line.calls += 1
        return line

    def open(self, line: Line, caller: str) -> Stream:
        """A stream, until the call's own task ends, which is the one that runs now."""
        stream = Stream(self, line, caller)
        cast("asyncio.Task[Any]", asyncio.current_task()).add_done_callback(lambda _: stream.leaves())
        return stream

    def touch(self, line: Line) -> None:
        """Something may have come over the connection: look soon."""
        if self._wake is None:
            return
        if line.socket is None:
            self._sweep_soon.set()
        self._touched[line] = None
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    def _named(self, name: str) -> Line:
        if not name.startswith("ipv"):  # a Unix socket: the transport native's own
            return Line(of_address(""))
        peer = peer_of(name)
        line = self._by_peer.get(peer) or self._made(peer)
        if self._wake is not None:
            self._by_name[name] = self._by_peer[peer] = line
        return line

    def _made(self, peer: Peer) -> Line:
        line = Line(of_address(peer[0]))
        line.proxy = peer[0] if self._proxies is not None and self._proxies.trusts(peer[0]) else None
        return line

    def caller(self, line: Line, context: Context) -> str:
        """Whose call it is where it shows no key: what a trusted proxy tells, or the connection's address."""
        if line.proxy is None or self._proxies is None:
            return line.caller
        header = self._proxies.header
        values = [value for key, value in context.invocation_metadata() or () if key == header]
        return self._proxies.caller(line.proxy, [value for value in values if isinstance(value, str)])

    # -- Connections with open streams are looked at soon after something has come, and not otherwise.

    def _woken(self) -> None:
        for number, _ in self._wake.poll(0) if self._wake is not None else ():
            line = self._by_number.get(number)
            if line is None:
                self._sweep_soon.set()
            else:
                line.armed = False
                if line.streams:
                    self.touch(line)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        begun, self._ticking = thread_time(), None
        for line in [line for line, _ in zip(self._touched, range(_LOOKS_AT_A_TIME), strict=False)]:
            del self._touched[line]
            line.look()
            if line.socket is not None:
                line.settle()
            self._arm(line)
            if line.most() > _SMALL_BYTES:
                self._holding[line] = None
        self._decide(loop.time())
        if self._touched:
            pause = max(_TICK_SECONDS, (thread_time() - begun) / _MOST_OF_TIME)
            self._ticking = loop.call_later(pause, self._tick)

    def _arm(self, line: Line) -> None:
        """One event for whatever comes next."""
        if self._wake is None or line.socket is None or not line.streams:
            return
        number, events = line.socket.sock.fileno(), select.EPOLLIN | select.EPOLLET | select.EPOLLONESHOT
        try:
            try:
                self._wake.modify(number, events)
            except FileNotFoundError:
                self._wake.register(number, events)
            line.armed = True
        except OSError:  # the core has closed it
            line.forget()

    def _decide(self, now: float) -> None:
        for line in [line for line in self._holding if line.most(ended=True) <= _SMALL_BYTES]:
            del self._holding[line]
        for stream, text in over(self._holding, self._bounds, now).items():
            stream.end(now, text)
        for line in list(self._holding):
            stays = any(stream.ended and now - stream.ended > _LEAVE_SECONDS for stream in line.streams)
            if stays or line.most(ended=True) > 2 * self._most_of(line):
                del self._holding[line]
                self._cut(line, "halves")

    def _most_of(self, line: Line) -> int:
        return self._bounds.total if line.proxy else self._bounds.each

    def _cut(self, line: Line, reason: str) -> None:
        if line.socket is None:
            return
        self._on_cut(reason)
        log.info("a connection is cut, since what comes over it is no whole message (%s): %s", reason, line.socket.peer)
        cutting = asyncio.get_running_loop().run_in_executor(None, shut, (line.socket.peer,))
        self._cutting.add(cutting)
        cutting.add_done_callback(self._cutting.discard)

    # -- All connections, with calls or without, are looked at now and then.

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            took = 0.0
            try:
                took = await self._look_around()
                now = loop.time()
                await self._look_for_floods(now - before)
                before = now
                self._decide(now)
            except Exception:
                log.exception("gRPC's connections could not be looked at; it is tried again")
            # Of processor time: on a busy machine, looking may last, and must not be put off for that.
            pause = min(_SWEEP_SECONDS, max(_TICK_SECONDS, took / _MOST_OF_TIME))
            await asyncio.sleep(pause)
            if pause < _SWEEP_SECONDS:
                await self._until_soon(_SWEEP_SECONDS - pause)

    async def _until_soon(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._sweep_soon.wait()
        except TimeoutError:
            pass

    async def _look_around(self) -> float:
        """Returns how many seconds of processor time it took to look."""
        self._sweep_soon.clear()
        before = set(self._by_peer)
        look = asyncio.get_running_loop().run_in_executor
        (self._known, new), took = await look(None, _timed_look, self._known, frozenset(self._ports))
        for number, line in list(self._by_number.items()):
            if line.socket is None or self._known.get(number) != line.socket.inode:
                line.forget()
                del self._by_number[number]
        for connected in new:
            self._found(connected)
        # A connection that was known before and has no socket is gone.
        for peer in before:
            if self._by_peer[peer].socket is None:
                del self._by_peer[peer]
        gone = [name for name, line in self._by_name.items() if line.socket is None and peer_of(name) in before]
        for name in gone:
            del self._by_name[name]
        self._make_way()
        return took

    def _make_way(self) -> None:
        cut = beyond((line for line in self._by_number.values() if not line.cut), self._places)
        for line in cut:
            line.cut = True
            if line.socket is not None:
                self._on_cut("crowded")
                end(line.socket)
        if cut:
            log.info("%d connections are cut, since their addresses have too many: %s", len(cut), cut[0].caller)

    def _found(self, connected: Connected) -> None:
        line = self._by_peer.get(connected.peer)
        if line is None:
            line = self._by_peer[connected.peer] = self._made(connected.peer)
        line.forget()
        line.socket = connected
        line.look()
        self._by_number[connected.sock.fileno()] = line
        if line.streams:
            self.touch(line)

    async def _look_for_floods(self, passed: float) -> None:
        """A few hundred at a time, so that nobody else waits for it."""
        for count, line in enumerate(list(self._by_number.values()), 1):
            line.look()
            on_their_way = line.reading + bool(line.streams) * 2 * self._most_of(line)
            beside = _FLOOD_BYTES_OF_PROXY if line.proxy else _FLOOD_BYTES
            if line.flooded(passed, self._bounds.max_message_bytes) > beside + on_their_way:
                line.level = 0
                self._cut(line, "flood")
            if count % _LOOKS_AT_A_TIME == 0:
                await asyncio.sleep(0)
