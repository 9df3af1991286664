"""No message takes more memory than three times its size, however a hill climber forms it; nor stalls the loop.

What is fuzzed: every message of every front (`fuzzing.targets`), by its own code, from the bytes to the refusal.
`make test` climbs for a few messages of each kind that is decoded where it comes, about 10 s in all, and asserts
memory alone: times are no test where others use the machine. `make fuzz` climbs for a minute over all of them, and
`make attack` for half an hour (ATTACK_FUZZ_SECONDS). Then the loop's longest step is held against a fixed
piece of work that is timed beside it: 20 ms on a machine that needs 5 ms for it. The worst messages are kept
in ``.duet/fuzz``: ``python -m tests.security.fuzzing --replay FILE``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.security.fuzzing.measure import STALL_SECONDS
from tests.security.fuzzing.side_by_side import Found, climbed
from tests.security.fuzzing.targets import TARGETS

SEED = 1
MESSAGES = 6
SECONDS = float(os.environ.get("ATTACK_FUZZ_SECONDS", "60"))
#: Of JSON as large as bodies may be, what both processes take together: the body in each, and what is made of it.
ASIDE = {name: 2.0 for name in TARGETS if name.endswith(", large")}

Record = Callable[[str, object], None]


def chosen(request: pytest.FixtureRequest, test: str) -> list[str]:
    """The targets of those cases of a test that this run has."""
    items = [item for item in request.session.items if getattr(item, "originalname", "") == test]
    return [item.callspec.params["name"] for item in items]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def sent(request: pytest.FixtureRequest) -> dict[str, Found]:
    return climbed(chosen(request, test_a_message_without_a_fault_comes_to_its_end.__name__), seed=SEED, good=True)


@pytest.fixture(scope="module")
def soon(request: pytest.FixtureRequest) -> dict[str, Found]:
    names = chosen(request, test_a_few_messages_of_each_kind_take_three_times_their_size_at_most.__name__)
    return climbed(names, seed=SEED, messages=MESSAGES)


@pytest.fixture(scope="module")
def late(request: pytest.FixtureRequest) -> dict[str, Found]:
    return climbed(chosen(request, test_no_message_stalls_or_swells.__name__), seed=SEED, seconds=SECONDS)


@pytest.mark.parametrize("name", TARGETS)
def test_a_message_without_a_fault_comes_to_its_end(sent: dict[str, Found], name: str) -> None:
    """It is decoded and the server behind asked, or it is answered: else climbs of its kind would say nothing."""
    assert not sent[name].failure, sent[name].failure


@pytest.mark.parametrize("name", [name for name in TARGETS if not name.endswith(", large")])
def test_a_few_messages_of_each_kind_take_three_times_their_size_at_most(soon: dict[str, Found], name: str) -> None:
    """And 8 MiB, which small messages that are filled may take (`gateway.codecs.limits`)."""
    found = soon[name]
    assert not found.failure, found.failure
    assert found.memory_share <= ASIDE.get(name, 1.0), found.lines


@pytest.mark.full
@pytest.mark.parametrize("name", TARGETS)
def test_no_message_stalls_or_swells(late: dict[str, Found], name: str, record_property: Record) -> None:
    """The stall in processor time, scaled by what the machine takes for the fixed work at that moment."""
    found = late[name]
    assert not found.failure, found.failure
    print("", *found.lines, sep="\n")
    record_property("figure", f"{name}: {found.stall_seconds * 1e3:.0f} ms, {found.memory_share:.2f} of its memory")
    assert found.stall_seconds <= STALL_SECONDS, found.lines
    assert found.memory_share <= ASIDE.get(name, 1.0), found.lines
