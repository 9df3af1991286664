from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Unavailable
from gateway.registry import Registry
from gateway.types import ModelMetadata
from tests.fakes.doubling import Doubling

pytestmark = pytest.mark.anyio


class Server(Doubling):
    async def metadata(self, model: str) -> ModelMetadata:
        if self.away:
            raise Unavailable("it is away")
        return self.known(model)


async def test_listeners_are_told_when_other_versions_are_ready_and_only_then() -> None:
    server, told = Server(), []
    registry = Registry(servers={"v": server}, variants={"m": ["v"]}, refresh_seconds=0.01)
    registry.on_change("v", told.append)

    async def until_told(times: int) -> None:
        async with asyncio.timeout(5):
            while len(told) < times:
                registry.suspect("v")
                await asyncio.sleep(0.01)

    registry.start()
    await until_told(1)
    await asyncio.sleep(0.3)
    assert told == ["m"]
    server.versions = (1, 2)
    await until_told(2)
    server.away = True
    await until_told(3)
    server.away = False  # it may have come back with other weights
    await until_told(4)
    await registry.aclose()
    assert told == ["m"] * 4


async def test_what_is_known_can_be_asked_without_an_exception() -> None:
    server = Server()
    registry = Registry(servers={"v": server}, variants={"m": ["v"]}, refresh_seconds=0.01)
    assert registry.known("m", "v") is None
    assert registry.known("nobody", "v") is None
    registry.start()
    await asyncio.sleep(0.05)
    await registry.aclose()
    assert registry.known("m", "v") is server.known("m")
