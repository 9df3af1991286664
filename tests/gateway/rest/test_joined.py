"""Head and body of an answer leave in one write; nothing that is written stays behind."""

from __future__ import annotations

import asyncio

import pytest

from gateway.rest.joined import Joined

pytestmark = pytest.mark.anyio


class Recorded(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, pieces: list[bytes]) -> None:  # type: ignore[override]
        self.writes.append(b"".join(pieces))

    def close(self) -> None:
        self.closed = True


async def joined() -> tuple[Recorded, Joined]:
    transport = Recorded()
    return transport, Joined(transport, asyncio.get_running_loop())


async def test_head_and_body_go_together_and_what_follows_as_it_comes() -> None:
    transport, answer = await joined()
    for piece in (b"head", b"body", b"more"):
        answer.write(piece)
    await asyncio.sleep(0)
    assert transport.writes == [b"headbody", b"more"]


async def test_a_head_whose_body_is_late_does_not_wait_for_it() -> None:
    transport, answer = await joined()
    answer.write(b"head")
    await asyncio.sleep(0)
    assert transport.writes == [b"head"]
    answer.write(b"body")
    assert transport.writes == [b"head", b"body"]


async def test_a_head_goes_out_before_the_connection_closes() -> None:
    transport, answer = await joined()
    answer.write(b"head")
    answer.close()
    await asyncio.sleep(0)
    assert (transport.writes, transport.closed) == ([b"head"], True)
