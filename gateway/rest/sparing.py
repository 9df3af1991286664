"""What takes long to make and may be asked for by everybody: made once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter


class Sparing:
    """Calls ``make`` for at most ``share`` of the time. Nobody is given what was made before it asked."""

    def __init__(self, make: Callable[[], bytes], *, share: float = 0.05) -> None:
        self._make = make
        self._share = share
        self._free_at = 0.0
        self._next: asyncio.Task[bytes] | None = None

    async def __call__(self) -> bytes:
        if self._next is None:
            self._next = asyncio.create_task(self._made())
        # One who leaves does not take it away from the others.
        return await asyncio.shield(self._next)

    async def _made(self) -> bytes:
        await asyncio.sleep(max(0.0, self._free_at - perf_counter()))
        self._next = None  # whoever asks from now on
        begun = perf_counter()
        try:
            return self._make()
        finally:
            ended = perf_counter()
            self._free_at = ended + (ended - begun) / self._share
