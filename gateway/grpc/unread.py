"""Answers that their clients do not read.

gRPC keeps an answer in memory until its client has taken it, for as long as that pleases: HTTP/2's flow control lets a
client keep a stream still while the connection looks well. grpc.aio has no deadline for it, nor a way to end a call
whose answer is on its way. What it does have is that a call's task ends when the answer has left; so the answers that
have not are known here, are bounded in bytes, and the connection of one that takes too long is shut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc.aio

from gateway.errors import ResourceExhausted
from gateway.grpc.sockets import peer_of, shut

log = logging.getLogger("duet.grpc")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_MOST_SWEEP_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Answer:
    context: Context
    size: int
    since: float
    cut: bool = False


class Unread:
    """The answers of one server that are made and have not left.

    Each may take ``stall_seconds``, and longer while that is ``bytes_per_second``. Together they are at most
    ``max_bytes``, and one answer more for each call that was let in before. ``on_cut`` hears of each connection.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        stall_seconds: float = 30.0,
        bytes_per_second: int = 10_000,
        on_cut: Callable[[], None] = lambda: None,
    ) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes
        self._stall_seconds = stall_seconds
        self._bytes_per_second = bytes_per_second
        self._on_cut = on_cut
        #: In the order in which they were made.
        self._answers: dict[Answer, None] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._cutting: asyncio.Future[None] | None = None

    def check(self) -> None:
        """Raises ResourceExhausted where no further request should be worked on."""
        if self.held_bytes > self._max_bytes:
            raise ResourceExhausted(
                "the gateway holds as many bytes of unread answers as it may; try again later", retry_after_seconds=1
            )

    def hold(self, context: Context, size: int) -> Answer:
        """The answer is about to be sent; to be given back once it has left, or never will."""
        loop = asyncio.get_running_loop()
        answer = Answer(context, size, loop.time())
        self._answers[answer] = None
        self.held_bytes += size
        if self._sweeping is None:
            self._sweeping = loop.call_later(min(_MOST_SWEEP_SECONDS, self._stall_seconds / 4), self._sweep)
        return answer

    def hold_for_task(self, context: Context, size: int) -> None:
        """`hold`, until the call's own task ends, which is the one that runs now."""
        answer = self.hold(context, size)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        task.add_done_callback(lambda _: self.release(answer))

    def release(self, answer: Answer) -> None:
        del self._answers[answer]
        self.held_bytes -= answer.size

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = None
        if not self._answers:
            return
        self._sweeping = loop.call_later(min(_MOST_SWEEP_SECONDS, self._stall_seconds / 4), self._sweep)
        late = [answer for answer in self._late(loop.time()) if not answer.cut]
        if late and (self._cutting is None or self._cutting.done()):
            for answer in late:
                answer.cut = True
            peers = {peer_of(answer.context.peer()) for answer in late}
            for _ in peers:
                self._on_cut()
            log.info("connections are cut, since their answers are not read: %s", sorted(peers))
            # Many files may be open, and each is looked at.
            self._cutting = loop.run_in_executor(None, shut, peers)

    def _late(self, now: float) -> Iterator[Answer]:
        for answer in self._answers:
            passed = now - answer.since
            if passed <= self._stall_seconds:
                return
            if passed > answer.size / self._bytes_per_second:
                yield answer
