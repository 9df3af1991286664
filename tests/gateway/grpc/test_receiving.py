"""Messages on their way in: how many are read at a time, whose turn it is, and how long one may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from gateway.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from gateway.grpc.receiving import Receiving


class Client:
    """One call's client: its message is read when `started` is set, and comes with `send`."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self._message: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read(self) -> Any:
        self.started.set()
        return await self._message

    def send(self, message: Any) -> None:
        self._message.set_result(message)


def receiving(*, at_once: int = 4, each: int = 2, seconds: float = 60.0, **more: Any) -> Receiving:
    return Receiving(at_once=at_once, each=each, seconds=seconds, **more)


@asynccontextmanager
async def calls(reads: Receiving, *callers: str) -> AsyncIterator[list[tuple[Client, asyncio.Task[bytes]]]]:
    """They begin in this order."""
    clients = [Client() for _ in callers]
    tasks = []
    for client, caller in zip(clients, callers, strict=True):
        tasks.append(asyncio.create_task(reads.message(client, caller)))  # type: ignore[arg-type]  # what is used of it
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    try:
        yield list(zip(clients, tasks, strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert reads.reading == 0


def test_a_caller_reads_its_share_and_its_other_messages_wait_in_turn() -> None:
    async def scenario() -> None:
        async with calls(receiving(), "a", "a", "a", "a", "b") as (
            (one, first),
            (two, _),
            (three, third),
            (four, _),
            (b, _),
        ):
            assert [client.started.is_set() for client in (one, two, three, four, b)] == [
                True,
                True,
                False,
                False,
                True,
            ]
            one.send(b"1")
            assert await first == b"1"
            await asyncio.sleep(0)
            assert three.started.is_set()
            assert not four.started.is_set()
            three.send(b"3")
            assert await third == b"3"

    asyncio.run(scenario())


def test_what_is_free_is_given_to_one_caller_after_the_other() -> None:
    async def scenario() -> None:
        async with calls(receiving(at_once=1, each=1), "a", "a", "a", "b", "c") as found:
            order = []
            for _ in found:
                (client, task, name) = next(
                    (client, task, name)
                    for (client, task), name in zip(found, "aaabc", strict=True)
                    if client.started.is_set() and not task.done()
                )
                order.append(name)
                client.send(b"")
                await task
                await asyncio.sleep(0)
            assert order[0] == "a"
            assert set(order[1:4]) == {"a", "b", "c"}

    asyncio.run(scenario())


@pytest.mark.parametrize("waiting", [False, True], ids=["while it is read", "before its turn"])
def test_a_message_that_is_late_is_given_up(waiting: bool) -> None:
    async def scenario() -> None:
        reads = receiving(at_once=1, each=1, seconds=0.1)
        async with calls(reads, "a", "b") as found:
            with pytest.raises(DeadlineExceeded, match=r"grpc\.receive_seconds"):
                await found[int(waiting)][1]
        async with calls(reads, "c") as ((client, task),):
            client.send(b"in time")
            assert await task == b"in time"

    asyncio.run(scenario())


def test_a_client_that_leaves_gives_its_turn_to_the_next() -> None:
    """Before its turn, in the moment of its turn, and while it is read."""

    async def scenario() -> None:
        async with calls(receiving(at_once=1, each=1), "a", "a", "a", "a") as (
            (one, first),
            (_, second),
            (_, third),
            (four, fourth),
        ):
            second.cancel()
            one.send(b"1")
            assert await first == b"1"
            third.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            assert four.started.is_set()
            fourth.cancel()

    asyncio.run(scenario())


def test_the_newest_first_and_the_oldest_makes_way() -> None:
    async def scenario() -> None:
        reads = receiving(at_once=2, each=1, newest_first=True, max_waiting=2)
        async with calls(reads, "a", "a", "a", "a") as ((one, first), (_, oldest), (three, _), (four, _)):
            with pytest.raises(ResourceExhausted, match="newer calls"):
                await oldest
            one.send(b"1")
            await first
            await asyncio.sleep(0)
            assert four.started.is_set()
            assert not three.started.is_set()

    asyncio.run(scenario())


def test_a_unary_call_without_a_message_is_refused() -> None:
    async def scenario() -> None:
        async with calls(receiving(), "a") as ((client, task),):
            client.send(grpc.aio.EOF)
            with pytest.raises(InvalidArgument, match="no message"):
                await task

    asyncio.run(scenario())
