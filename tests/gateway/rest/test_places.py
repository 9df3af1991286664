"""Whose connection makes way. The kind: connections that one address holds, whatever they do with them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.rest.places import Places


@dataclass(eq=False)
class Fake:
    caller: str
    is_waiting: bool = False


def filled(places: Places[Fake], caller: str, count: int, *, idle: bool = False, waiting: bool = False) -> list[Fake]:
    made = [Fake(caller, waiting) for _ in range(count)]
    for connection in made:
        assert places.enter(connection, caller) is None
        if idle:
            places.own(caller).idle[connection] = None
    return made


@pytest.mark.parametrize("holds", ["idle", "waiting"])
def test_the_caller_that_holds_most_makes_way(holds: str) -> None:
    """Idle connections, heads and bodies that do not come: whoever has few keeps them, however long they are idle."""
    places = Places[Fake](10)
    others = filled(places, "a bystander", 2, idle=True)
    held = filled(places, "an attacker", 8, **{holds: True})
    assert places.enter(Fake("a third one"), "a third one") is held[0]
    places.leave(held[0], "an attacker")
    assert places.enter(Fake("a bystander"), "a bystander") is held[1]
    assert all(connection in places.own("a bystander").idle for connection in others)


def test_who_holds_most_takes_nothing_from_others() -> None:
    """Its own idle ones make way; where it has none, the new one is refused."""
    places = Places[Fake](5)
    filled(places, "a bystander", 2, idle=True)
    held = filled(places, "an attacker", 3)
    new = Fake("an attacker")
    assert places.enter(new, "an attacker") is new
    places.leave(new, "an attacker")
    places.own("an attacker").idle[held[1]] = None
    assert places.enter(Fake("an attacker"), "an attacker") is held[1]


def test_one_caller_has_its_share() -> None:
    """And at least 64, so that a small limit is no smaller for those who are alone."""
    places = Places[Fake](1000, 0.1)
    held = filled(places, "an attacker", 100)
    new = Fake("an attacker")
    assert places.enter(new, "an attacker") is new
    places.leave(new, "an attacker")
    places.own("an attacker").idle[held[7]] = None
    assert places.enter(Fake("an attacker"), "an attacker") is held[7]
    assert places.enter(Fake("another"), "another") is None
    few = Places[Fake](100, 0.01)
    filled(few, "one", 64)
    new = Fake("one")
    assert few.enter(new, "one") is new


def test_a_request_at_work_is_cut_for_nobody() -> None:
    """Where all that the largest caller has are being answered, who comes is refused."""
    places = Places[Fake](3)
    filled(places, "busy", 3)
    new = Fake("another")
    assert places.enter(new, "another") is new


def test_what_left_is_forgotten() -> None:
    places = Places[Fake](2)
    for connection in filled(places, "one", 2, idle=True):
        places.leave(connection, "one")
    filled(places, "another", 2)
    assert places.own("one").connections == {}
