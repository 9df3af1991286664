"""Who may hold how many bytes of bodies, and which body is slow: pure decisions, with times that are made up."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest

from gateway.config import HttpShares, Settings
from gateway.rest.room import Holding, Pace, Room, Shares
from gateway.security.shares import of_address

MIB, KIB = 1 << 20, 1 << 10


def fill(room: Room, caller: str, *, body: int, piece: int = 256 * KIB, connections: int = 10_000) -> list[Holding]:
    """Connections of one caller that take what they get, until a new one gets nothing."""
    found: list[Holding] = []
    for _ in range(connections):
        holding = Holding(caller)
        while holding.size < body and room.take(holding, min(piece, body - holding.size)):
            pass
        found.append(holding)
        if not holding.size:
            break
    return found


def held(holdings: list[Holding]) -> int:
    return sum(holding.size for holding in holdings)


def test_an_idle_gateway_refuses_none_of_a_callers_few_large_bodies() -> None:
    room = Room(256 * MIB)
    bodies = fill(room, "a", body=16 * MIB, connections=7)
    assert [holding.size for holding in bodies] == [16 * MIB] * 7


@pytest.mark.parametrize("body", [15 * MIB, 1 * MIB, 70 * KIB])
def test_whatever_the_sizes_one_caller_leaves_half_to_the_others(body: int) -> None:
    room = Room(256 * MIB)
    assert held(fill(room, "a", body=body)) <= 112 * MIB + 16 * MIB  # and its share of the room for small bodies
    other = Holding("b")
    assert room.take(other, 16 * MIB)
    assert room.held_bytes <= 256 * MIB


@pytest.mark.parametrize("body", [16 * MIB, 64 * KIB, 4 * KIB])
def test_after_many_callers_too_there_is_room_for_the_next_small_body(body: int) -> None:
    room = Room(256 * MIB)
    for caller in range(6):
        fill(room, f"peer:192.0.2.{caller}", body=body, piece=min(body, 64 * KIB))
    assert room.take(Holding("late"), 2 * KIB)


@pytest.mark.parametrize("body", [16 * MIB, 15 * MIB, 1 * MIB, 70 * KIB, 60 * KIB])
def test_by_default_one_caller_holds_64_mib_at_most(body: int) -> None:
    """Of large bodies, small ones, or a mixture: of both parts of the room a quarter."""
    settings, max_bytes = HttpShares(), Settings.model_fields["max_bytes_in_flight"].default
    room = Room(max_bytes, Shares(settings.caller, settings.connection, settings.small, settings.small_bytes))
    assert 40 * MIB < held(fill(room, "a", body=body)) + held(fill(room, "a", body=4 * KIB)) <= 64 * MIB


def test_a_large_body_takes_none_of_the_room_for_small_ones() -> None:
    """Not even its first bytes, once it has grown: they move with it. The same caller's small ones go on."""
    room = Room(8 * MIB)
    fill(room, "a", body=8 * MIB)
    assert all(room.take(Holding("a"), 1 * KIB) for _ in range(400))


def test_a_share_is_of_what_the_others_leave_now() -> None:
    """It grows back as soon as the others have gone."""
    room = Room(16 * MIB, Shares(small=0))
    others = fill(room, "a", body=1 * MIB)
    caller = Holding("b")
    assert room.take(caller, 4 * MIB)
    assert not room.take(caller, 1 * MIB)
    for holding in others:
        room.give_back(holding)
    assert room.take(caller, 4 * MIB)


def test_one_connection_leaves_some_to_its_callers_others() -> None:
    room = Room(16 * MIB, Shares(caller=1, small=0))
    room.take(Holding("b"), 70 * KIB)
    first = Holding("a")
    while room.take(first, 64 * KIB):
        pass
    assert 7 * MIB < first.size <= 8 * MIB
    assert room.take(Holding("a"), 3 * MIB)


def test_who_is_alone_may_be_larger_than_the_room() -> None:
    room = Room(MIB)
    alone = Holding("a")
    assert room.take(alone, 4 * MIB)
    assert not room.take(Holding("b"), 100 * KIB)
    assert room.take(Holding("b"), 1 * KIB)


def test_bytes_are_held_for_the_caller_once_it_is_known() -> None:
    """Two keys behind one proxy have a share each; what was held for the address is moved, not counted twice."""
    room = Room(16 * MIB, Shares(small=0))
    first, second = Holding("peer:proxy"), Holding("peer:proxy")
    assert room.take(first, 100 * KIB)
    room.move(first, "key:a")
    assert room.take(second, 100 * KIB)
    while room.take(first, 100 * KIB):
        pass
    assert first.size > 7 * MIB
    assert room.take(second, 3 * MIB)
    room.give_back(first)
    room.give_back(second)
    assert room.held_bytes == 0


def test_the_books_are_right_whatever_is_done() -> None:
    """Thousands of takes, moves and returns: no more than the room, and nothing left at the end."""
    random = Random(18)
    room = Room(4 * MIB)
    holdings = [Holding(f"c{number % 5}") for number in range(40)]
    for _ in range(20_000):
        holding = random.choice(holdings)
        act = random.random()
        if act < 0.8:
            room.take(holding, random.choice((1, 500, 20 * KIB, 65 * KIB, 300 * KIB)))
        elif act < 0.9:
            room.move(holding, f"c{random.randrange(5)}")
        else:
            room.give_back(holding)
        assert room.held_bytes == held(holdings)
        assert room.held_bytes <= 4 * MIB or sum(holding.size > 0 for holding in holdings) <= 2
    for holding in holdings:
        room.give_back(holding)
    assert (room.held_bytes, room._all.callers, room._small.callers) == (0, {}, {})


def test_a_slow_body_makes_way_for_its_caller_and_for_whoever_holds_less() -> None:
    room = Room(64 * MIB)
    large, small, own = Holding("a"), Holding("b"), Holding("a")
    room.take(large, 4 * MIB)
    room.take(small, 1 * MIB)
    assert room.makes_way(large, own)
    assert room.makes_way(large, small)
    assert not room.makes_way(small, large)
    assert not room.makes_way(large, large)
    assert not room.makes_way(Holding("a"), own), "it holds nothing that could be used"


def paced(sent: dict[float, int], *, until: float, rate: int = 10_000, window: float = 5.0) -> list[float]:
    """The times, looked at each half second, at which a body is slow. ``sent`` are bytes by their time."""
    pace, slow, now = Pace(0.0), [], 0.0
    times = sorted(sent)
    while now < until:
        now += 0.5
        while times and times[0] <= now:
            pace.received_bytes += sent[times.pop(0)]
        if pace.is_slow(now, bytes_per_second=rate, window_seconds=window):
            slow.append(now)
    return slow


def test_bytes_of_long_ago_earn_no_patience() -> None:
    """16 MiB at once, then nothing: on average the body is fast for half an hour."""
    slow = paced({0.4: 16 * MIB}, until=60)
    assert 5 < slow[0] <= 10.5
    assert slow[-1] == 60


@pytest.mark.parametrize("drip", [1, 100, 4_000])
def test_dripping_is_no_progress(drip: int) -> None:
    sent = {0.4: 16 * MIB} | {float(second): drip for second in range(1, 60)}
    assert paced(sent, until=60)[0] <= 10.5


@pytest.mark.parametrize("every", [0.5, 1.0, 2.0, 4.0])
def test_a_body_that_keeps_coming_is_never_slow(every: float) -> None:
    """In pieces as a bad network delivers them, at twice the rate."""
    step = round(every * 20_000)
    sent = {0.1 + every * number: step for number in range(round(60 / every))}
    assert not [time for time in paced(sent, until=55) if time > 5]


def test_while_we_do_not_read_nobody_is_slow() -> None:
    pace = Pace(0.0)
    pace.received_bytes = 100_000
    for half_seconds in range(1, 100):
        pace.pause(half_seconds / 2)
    assert not pace.is_slow(50.0, bytes_per_second=10_000, window_seconds=5)
    assert pace.is_slow(54.5, bytes_per_second=10_000, window_seconds=5)


@pytest.mark.parametrize(
    ("host", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "@", True),
    ],
)
def test_a_caller_is_its_address_or_its_subnet(host: str, other: str, same: bool) -> None:
    assert (of_address(host) == of_address(other)) is same
    assert not host or "%" in host or ip_address(host)
