"""Places and shares of them, and which caller an address stands for."""

from __future__ import annotations

import pytest

from gateway.errors import ResourceExhausted
from gateway.security.shares import Shares, of_address


def shares(places: int = 8, share: float = 0.25) -> Shares:
    return Shares(places=places, share=share, what="calls", setting="grpc.max_calls")


def test_a_caller_has_its_share_and_no_more() -> None:
    places = shares()
    for _ in range(2):
        places.enter("a")
    with pytest.raises(ResourceExhausted, match="one caller may hold 2 calls"):
        places.enter("a")
    places.enter("b")
    places.leave("a")
    places.enter("a")


def test_all_places_can_be_taken_by_many() -> None:
    places = shares()
    for caller in "aabbccdd":
        places.enter(caller)
    with pytest.raises(ResourceExhausted, match="all 8 calls"):
        places.enter("e")
    places.leave("d")
    places.enter("e")
    assert places.held == 8


def test_a_place_that_moves_counts_for_the_other_caller() -> None:
    """And stays where it was if the other has no room."""
    places = shares()
    places.enter("peer:10.0.0.1")
    places.move("peer:10.0.0.1", "key:1")
    for caller in ("peer:10.0.0.1", "peer:10.0.0.1", "key:1"):
        places.enter(caller)
    with pytest.raises(ResourceExhausted, match="one caller"):
        places.move("peer:10.0.0.1", "key:1")
    for caller in ("peer:10.0.0.1", "peer:10.0.0.1", "key:1", "key:1"):
        places.leave(caller)
    assert places.held == 0


@pytest.mark.parametrize(("places", "share", "each"), [(100, 0.25, 25), (1, 0.25, 1), (3, 0.5, 2), (10, 1.0, 10)])
def test_a_share_is_one_place_at_least(places: int, share: float, each: int) -> None:
    assert shares(places, share).each == each


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
    ],
)
def test_the_caller_of_an_address(one: str, other: str, same: bool) -> None:
    """In IPv6 the 64 bits that a provider gives to one customer."""
    assert (of_address(one) == of_address(other)) is same
