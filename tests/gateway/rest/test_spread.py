"""How much of the event loop one address has. The kind: much cheap work at once, on however many connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from gateway.rest.sparing import Sparing
from gateway.rest.spread import Spread


class Loop:
    """Turns by hand."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.done: list[str] = []
        self.time = 1.0
        self.spread = Spread(self.soon.append, lambda: self.time)

    def ask(self, caller: str, count: int, size: int = 0) -> None:
        for number in range(count):
            if self.spread.is_now(caller, size):
                self.done.append(f"{caller}{number}")
            else:
                self.spread.put_off(caller, partial(self.done.append, f"{caller}{number}"), size)

    def turn(self) -> list[str]:
        """What one turn of the loop does."""
        self.time += 0.001
        soon, self.soon[:] = list(self.soon), []
        self.done.clear()
        for work in soon:
            work()
        return list(self.done)


def crowded() -> Loop:
    """Where two have called, a moment ago."""
    loop = Loop()
    loop.ask("x", 1)
    loop.ask("y", 1)
    loop.turn()
    return loop


def test_one_address_has_eight_pieces_of_a_turn() -> None:
    """The rest follows in order, eight a turn, and others' work is not put off behind it."""
    loop = crowded()
    loop.ask("a", 20)
    loop.ask("b", 2)
    assert loop.done == [f"a{n}" for n in range(8)] + ["b0", "b1"]
    assert loop.turn() == [f"a{n}" for n in range(8, 16)]
    loop.ask("a", 1)
    loop.ask("b", 1)
    assert loop.done[8:] == ["b0"]
    assert loop.turn() == [f"a{n}" for n in range(16, 20)] + ["a0"]
    assert loop.turn() == []
    assert not loop.soon


def test_what_would_hold_too_much_is_not_put_off() -> None:
    loop = crowded()
    loop.ask("a", 80, 1 << 20)
    assert len(loop.done) == 64
    for _ in range(2):
        assert len(loop.turn()) == 8


def test_who_is_alone_is_not_put_off() -> None:
    """A load generator, or a proxy that nobody named. Who calls now and then, as probes do, changes it for a moment."""
    loop = Loop()
    loop.ask("a", 100)
    assert loop.done == [f"a{n}" for n in range(100)]
    assert not loop.soon
    loop.ask("a probe", 1)
    loop.turn()
    loop.ask("a", 100)
    assert len(loop.done) == 8
    loop.time += 1.1
    loop.ask("a", 100)
    assert len(loop.done) == 108


@pytest.mark.anyio
async def test_what_takes_long_is_made_once_for_all_who_ask() -> None:
    """And never before they asked: metrics, of which one rendering takes some milliseconds."""
    made: list[float] = []

    def make() -> bytes:
        made.append(asyncio.get_running_loop().time())
        return b"%d" % len(made)

    sparing = Sparing(make)
    first = asyncio.gather(*(sparing() for _ in range(50)))
    assert await first == [b"1"] * 50
    asked = asyncio.get_running_loop().time()
    assert await asyncio.gather(*(sparing() for _ in range(50))) == [b"2"] * 50
    assert made[1] >= asked
