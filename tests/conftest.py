from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.stack import ARTIFACTS, READY, START_SECONDS, Stack, start_stack

#: What shares a fixture that takes seconds or gigabytes: under `pytest -n`, all of it goes to one process.
_TOGETHER = {
    "tests/integration/": "stack",
    "tests/models/": "trained",
    "tests/security/": "door",
    "tests/serving/embedded/": "embedded",
}


#: What takes the stack's servers away, and what ends it, come after all that needs it whole: starting another one
#: takes longer than anything else here.
_LAST = ("tests/integration/test_matrix.py::", "tests/integration/test_stack.py::test_ctrl_c")


# After pytest's own, which sorts by fixtures.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((place + 1 for place, one in enumerate(_LAST) if item.nodeid.startswith(one)), 0))


class _ByFixture(LoadScopeScheduling):
    """Other tests go by the file. (xdist's own `loadgroup` does not yet work with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        group = next((group for start, group in _TOGETHER.items() if nodeid.startswith(start)), None)
        return group or nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFixture(config, log)


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
