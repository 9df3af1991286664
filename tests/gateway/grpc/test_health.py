"""What watchers of health cost, and what they see."""

from __future__ import annotations

import asyncio

from gateway.grpc.health import _LOOK_SECONDS, State


def test_one_task_looks_for_all_watchers() -> None:
    """A hundred of them: readiness is asked as often as for one; each hears of a change; the task ends with them."""
    asked = 0
    serving = True

    def ready() -> bool:
        nonlocal asked
        asked += 1
        return serving

    async def scenario() -> None:
        nonlocal serving
        state = State(ready, asyncio.Event())
        heard: list[int] = []

        async def watch() -> None:
            with state.watched():
                await state.changed.wait()
                heard.append(state.now())

        before = asyncio.all_tasks()
        watchers = [asyncio.create_task(watch()) for _ in range(100)]
        await asyncio.sleep(3.5 * _LOOK_SECONDS)
        assert 1 <= asked <= 6
        assert len(asyncio.all_tasks() - before) == 101
        serving = False
        async with asyncio.timeout(5):
            await asyncio.gather(*watchers)
        assert len(heard) == 100
        assert len(set(heard)) == 1
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    asyncio.run(scenario())


def test_watchers_hear_that_the_server_is_about_to_stop() -> None:
    async def scenario() -> None:
        ending = asyncio.Event()
        state = State(lambda: True, ending)
        with state.watched():
            waiting = asyncio.create_task(state.changed.wait())
            await asyncio.sleep(0)
            ending.set()
            async with asyncio.timeout(5):
                assert await waiting

    asyncio.run(scenario())
