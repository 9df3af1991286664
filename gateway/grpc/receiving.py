"""Messages that are on their way in: read only once there is room for them, and given up when they are late.

C core takes in a whole message as soon as somebody reads it, and says neither how long it will be nor how much of it
is there. Until then HTTP/2's flow control stops the client after 64 KiB. So a message that is being read counts as the
longest one (``grpc.max_message_bytes``), and those that may not be read yet wait outside.

Two things cannot be had from C core: a limit on the messages of one method, and a look at a message's progress. A
message of an open stream cannot wait outside either: until it has come, its reading looks like waiting for it. Those
are bounded by what comes over their connection (`gateway.grpc.arriving`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import grpc.aio

from gateway.errors import DeadlineExceeded, DuetError, InvalidArgument, ResourceExhausted

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_MOST_SWEEP_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Message:
    """One that is waited for. ``turn`` comes where it may not be read at once, ``ended`` is why its task stops."""

    task: asyncio.Task[Any]
    since: float
    turn: asyncio.Future[None] | None = None
    ended: DuetError | None = None


@dataclass(slots=True)
class _Caller:
    reading: int = 0
    waiting: deque[_Message] = field(default_factory=deque)


class Receiving:
    """Reads ``at_once`` messages at a time, and ``each`` of one caller; each has ``seconds`` from its call's begin.

    Others wait. Of one caller they wait in turn, or the newest first where ``newest_first`` is set; then at most
    ``max_waiting`` of a caller wait, and the oldest makes way. So whoever sends its message at once is soon answered,
    whatever else came from its address.
    """

    def __init__(
        self,
        *,
        at_once: int,
        each: int,
        seconds: float,
        setting: str = "grpc.receive_seconds",
        newest_first: bool = False,
        max_waiting: int | None = None,
    ) -> None:
        self.reading = 0
        self._at_once = at_once
        self._each = each
        self._seconds = seconds
        self._setting = setting
        self._newest_first = newest_first
        self._max_waiting = max_waiting
        self._callers: dict[str, _Caller] = {}
        #: In the order in which they were begun.
        self._messages: dict[_Message, None] = {}
        self._sweeping: asyncio.TimerHandle | None = None

    async def message(self, context: Context, caller: str) -> bytes:
        """The call's one message. Raises DeadlineExceeded, InvalidArgument where there is none, ResourceExhausted."""
        loop = asyncio.get_running_loop()
        message = _Message(cast("asyncio.Task[Any]", asyncio.current_task()), loop.time())
        self._messages[message] = None
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._sweep_seconds(), self._sweep)
        try:
            return await self._read(message, context.read, caller)
        except asyncio.CancelledError:
            if message.ended is None or message.task.uncancel():
                raise
            raise message.ended from None
        finally:
            del self._messages[message]

    async def _read(self, message: _Message, read: Callable[[], Coroutine[Any, Any, bytes]], caller: str) -> bytes:
        own = self._callers.get(caller)
        if own is None:
            own = self._callers[caller] = _Caller()
        try:
            if self.reading < self._at_once and own.reading < self._each:
                self.reading += 1
                own.reading += 1
            else:
                await self._turn(message, own)
            try:
                data = await read()
            finally:
                self._read_one(own)
        finally:
            if not own.reading and not own.waiting:
                self._callers.pop(caller, None)
        if data is grpc.aio.EOF:
            raise InvalidArgument("the call has no message; a unary call sends one")
        return data

    async def _turn(self, message: _Message, own: _Caller) -> None:
        """Returns when the message may be read, and counts as being read."""
        if self._max_waiting is not None and len(own.waiting) >= self._max_waiting:
            self._end(own.waiting.popleft(), ResourceExhausted("newer calls came from the same address; try again"))
        message.turn = asyncio.get_running_loop().create_future()
        own.waiting.append(message)
        try:
            await message.turn
        except asyncio.CancelledError:
            if message in own.waiting:
                own.waiting.remove(message)
            elif message.turn.done() and not message.turn.cancelled():  # its turn came at the same moment
                self._read_one(own)
            raise

    def _read_one(self, own: _Caller) -> None:
        self.reading -= 1
        own.reading -= 1
        if own.waiting or self.reading == self._at_once - 1:
            self._next()

    def _next(self) -> None:
        """Gives what is free to those that wait, one caller after the other."""
        for name, own in list(self._callers.items()):
            if self.reading >= self._at_once:
                return
            while own.waiting and own.reading < self._each and self.reading < self._at_once:
                message = own.waiting.pop() if self._newest_first else own.waiting.popleft()
                if message.turn is not None and not message.turn.done():
                    self.reading += 1
                    own.reading += 1
                    message.turn.set_result(None)
            # The next time others are first.
            self._callers[name] = self._callers.pop(name)

    def _sweep(self) -> None:
        self._sweeping = None
        if not self._messages:
            return
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(self._sweep_seconds(), self._sweep)
        for message in list(self._messages):
            if loop.time() - message.since <= self._seconds:
                return
            late = f"the message had not come within {self._seconds:g} s ({self._setting})"
            self._end(message, DeadlineExceeded(f"{late}; send it faster, or a smaller one"))

    def _end(self, message: _Message, why: DuetError) -> None:
        if message.ended is None:
            message.ended = why
            message.task.cancel()

    def _sweep_seconds(self) -> float:
        return min(_MOST_SWEEP_SECONDS, self._seconds / 4)
