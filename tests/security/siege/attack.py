"""What an attack is, and how one does the same thing over and over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.security.siege.wire import GONE, Target

#: Who attacks: nobody who is known, a key without any grant, a key with a grant and next to no quota.
NOBODY, NOTHING, TINY = "", "nothing", "tiny"
EVERYBODY = (NOBODY, NOTHING)

Run = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """``by`` says who is worth trying: where nobody is asked for a key, it makes no difference.

    ``least`` is what it must have done (`Target.did`): one that has not has attacked nobody, whatever was measured.
    """

    run: Run
    by: tuple[str, ...] = (NOBODY,)
    least: Mapping[str, int] = field(default_factory=lambda: {"connections": 1})


async def many(target: Target, count: int, one: Callable[[], Awaitable[None]], *, pause: float = 0.05) -> None:
    """So many at a time, each again and again. One that is cut off begins anew after a while."""

    async def over_and_over() -> None:
        while True:
            target.held += 1
            try:
                await one()
            except GONE:
                pass
            finally:
                target.held -= 1
            await asyncio.sleep(pause)

    await asyncio.gather(*(over_and_over() for _ in range(count)))


async def for_ever() -> None:
    await asyncio.Event().wait()
