from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack import ARTIFACTS, READY, START_SECONDS, Stack, start_stack


@pytest.fixture(scope="session")
def _stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stack]]:
    started: list[Stack] = []
    yield started
    for stack in started:
        stack.stop()


@pytest.fixture
def stack(_stacks: list[Stack], tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The whole of Duet, running; started again where the test before has stopped it."""
    if not _stacks or _stacks[-1].process.poll() is not None:
        _stacks.append(start_stack(tmp_path_factory.mktemp("stack"), "--artifacts", str(ARTIFACTS), "--timeout", "240"))
        _stacks[-1].wait_for_text(READY, START_SECONDS)
    return _stacks[-1]
