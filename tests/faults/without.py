"""Parts of the gateway that no setting switches off, taken away for `mutations`: ``DUET_FAULTS_WITHOUT`` names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

#: Names, with commas between them.
WITHOUT = "DUET_FAULTS_WITHOUT"


def _deadlines() -> None:
    from gateway.layers.deadline import Deadline

    async def infer(self: Any, request: Any) -> Any:
        return await self.inner.infer(request)

    Deadline.infer = infer  # type: ignore[method-assign]


def _new_addresses() -> None:
    """A name is looked up once, and never again."""
    from gateway.servers.balanced import Balanced

    follow = Balanced._follow

    async def once(self: Any) -> None:
        if not self._endpoints:
            await follow(self)

    Balanced._follow = once  # type: ignore[method-assign]


def _renewal() -> None:
    from gateway.servers.torchserve.keys import Keys

    Keys.due_for_renewal = lambda _: False  # type: ignore[method-assign]


def _resending() -> None:
    from gateway.servers import http

    http._STALE_SECONDS = -1.0


def _letting_go() -> None:
    """A client that has gone is worked for all the same."""
    from gateway.rest.connection import Connection

    lost = Connection.connection_lost

    def stays(self: Any, error: Exception | None) -> None:
        self._task = None
        lost(self, error)

    Connection.connection_lost = stays  # type: ignore[method-assign]


def _one_retry() -> None:
    """It is tried again and again, wherever there is a server left."""
    from gateway.errors import DuetError
    from gateway.layers.retry import Retry

    infer = Retry.infer

    async def persist(self: Any, request: Any) -> Any:
        for _ in range(5):
            try:
                return await infer(self, request)
            except DuetError as error:
                if error.fault is None or not error.fault.retry_safe:
                    raise
                await asyncio.sleep(0.05)
        return await infer(self, request)

    Retry.infer = persist  # type: ignore[method-assign]


def _ages() -> None:
    """Nobody looks at calls before they end."""
    from gateway.servers.overdue import Sweep

    Sweep.watch = lambda self, calls: None  # type: ignore[method-assign]


PARTS: dict[str, Callable[[], None]] = {
    "deadlines": _deadlines,
    "new addresses": _new_addresses,
    "renewal": _renewal,
    "resending": _resending,
    "letting go": _letting_go,
    "one retry": _one_retry,
    "ages": _ages,
}


def take_away(names: str) -> None:
    for name in filter(None, names.split(",")):
        PARTS[name]()
