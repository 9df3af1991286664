"""Threads for gRPC calls, of which callers that do not finish sending cannot take all.

grpcio gives a call its thread when its headers come, and waits in it for the message. Sixteen clients that send half a
message would hold up sixteen threads for ever; so there are more threads than are meant to work, and a call whose
message is late is cancelled: soon where others wait for its thread, and in any case after a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

#: Threads beyond those that are meant to work.
WAITING_THREADS = 48
#: A message may take so long if nobody waits for the thread, and so long if somebody does.
RECEIVE_SECONDS, CROWDED_SECONDS = 60.0, 2.0

_mine = threading.local()


@dataclass(slots=True, eq=False)
class _Receiving:
    call: Any
    since: float


class Threads(futures.ThreadPoolExecutor):
    """For `grpc.server`. Behaviours say with `arrived` that their thread has its message."""

    def __init__(self, count: int) -> None:
        super().__init__(count + WAITING_THREADS, thread_name_prefix="grpc")
        self._receiving: dict[int, _Receiving] = {}
        threading.Thread(target=self._watch, name="grpc-receiving", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        # The event of the call is among the arguments (grpc/_server.py, _handle_unary_unary); without it, as in
        # another version of grpcio, calls are not cancelled.
        call = next((item.call for item in args if hasattr(item, "call")), None)
        return super().submit(self._run, call, fn, *args, **kwargs)

    def _run(self, call: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        key = threading.get_ident()
        self._receiving[key] = _Receiving(call, time.monotonic())
        _mine.arrived = lambda: self._receiving.pop(key, None)
        try:
            return fn(*args, **kwargs)
        finally:
            self._receiving.pop(key, None)

    def _watch(self) -> None:
        while True:
            time.sleep(CROWDED_SECONDS / 4)
            limit = CROWDED_SECONDS if self._work_queue.qsize() else RECEIVE_SECONDS
            now = time.monotonic()
            for key, receiving in list(self._receiving.items()):
                late = now - receiving.since > limit and receiving.call is not None
                if late and self._receiving.pop(key, None) is receiving:
                    receiving.call.cancel()


def arrived() -> None:
    """The message of this thread's call is there."""
    note = getattr(_mine, "arrived", None)
    if note is not None:
        note()
