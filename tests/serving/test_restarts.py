from __future__ import annotations

from serving.restarts import Restarts


def test_the_delay_doubles_up_to_thirty_seconds() -> None:
    """Crashes 20 s apart are never five in a minute, so they are retried for ever, ever slower."""
    restarts = Restarts()
    assert [restarts.delay_seconds(20.0 * count) for count in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_fifth_crash_within_a_minute_is_the_last() -> None:
    """The first four are answered with delays."""
    restarts = Restarts()
    assert [restarts.delay_seconds(now) for now in (0.0, 10.0, 20.0, 30.0, 59.9)] == [1, 2, 4, 8, None]


def test_after_a_minute_without_a_crash_the_delay_starts_again() -> None:
    """What has run for long is not punished for its past."""
    restarts = Restarts()
    assert [restarts.delay_seconds(now) for now in (0.0, 1.0, 61.0)] == [1, 2, 1]
