"""Threads for gRPC calls, of which callers that do not finish sending cannot take all.

grpcio gives a call its thread when its headers come, and waits in it for the message. Sixteen clients that send half a
message would hold up sixteen threads for ever. So there are more threads while some wait longer than a message takes,
and a call whose message is late is cancelled: soon where others wait for its thread, and in any case after a while.
All of them at all times would cost: 64 callers get 8 % fewer requests/s from 64 threads than from 16.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

#: Threads beyond those that are meant to work, at most.
WAITING_THREADS = 48
#: Who has waited so long for a message is replaced.
_PATIENCE_SECONDS = 0.1
#: A message may take so long if nobody waits for the thread, and so long if somebody does.
RECEIVE_SECONDS, CROWDED_SECONDS = 60.0, 2.0

#: By thread: the call whose message it waits for, and since when.
_receiving: dict[int, tuple[Any, float]] = {}


class Threads(futures.ThreadPoolExecutor):
    """For `grpc.server`. Behaviours say with `arrived` that their thread has its message."""

    def __init__(self, count: int) -> None:
        super().__init__(count, thread_name_prefix="grpc")
        self._count = count
        threading.Thread(target=self._watch, name="grpc-receiving", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        # The event of the call comes first (grpc/_server.py, _handle_unary_unary); where it does not, as in another
        # version of grpcio, calls are not cancelled.
        call = getattr(args[0], "call", None) if args else None
        return super().submit(_run, call, fn, *args, **kwargs)

    def _watch(self) -> None:
        while True:
            time.sleep(_PATIENCE_SECONDS)
            limit = CROWDED_SECONDS if self._work_queue.qsize() else RECEIVE_SECONDS
            now, waiting = time.monotonic(), 0
            for thread, entry in list(_receiving.items()):
                call, since = entry
                waiting += now - since > _PATIENCE_SECONDS
                if now - since > limit and call is not None and _receiving.pop(thread, None) is entry:
                    call.cancel()
            self._replace(waiting)

    def _replace(self, waiting: int) -> None:
        """Makes room for as many more, and threads at once for the calls that are there already."""
        self._max_workers = max(self._max_workers, self._count + min(waiting, WAITING_THREADS))
        for _ in range(min(self._work_queue.qsize(), self._max_workers - len(self._threads))):
            self._adjust_thread_count()


def _run(call: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    thread = threading.get_ident()
    _receiving[thread] = call, time.monotonic()
    try:
        return fn(*args, **kwargs)
    finally:
        _receiving.pop(thread, None)


def arrived() -> None:
    """The message of this thread's call is there."""
    _receiving.pop(threading.get_ident(), None)
