from __future__ import annotations

import numpy as np
import pytest

from loadtest.analysis.arrivals import SECOND, generator, poisson
from loadtest.analysis.load import backlog_grows, cost_per_million, goodput, in_flight_at_sends, little_error


def queue(per_second: float, service_seconds: float, seconds: float = 60) -> tuple[np.ndarray, np.ndarray]:
    """One server with a queue, fed by Poisson arrivals: times of sending and ends."""
    sent = poisson(generator(1, "queue", 0, 0), per_second, seconds)
    ended, free = [], 0
    for time in sent.tolist():
        free = max(free, time) + int(service_seconds * SECOND)
        ended.append(free)
    return sent, np.array(ended)


def test_littles_law_holds_of_a_queue_that_keeps_up() -> None:
    """The mean number in flight, seen by arrivals, is rate times mean time (PASTA)."""
    sent, ended = queue(80, 0.008)
    seen = in_flight_at_sends(sent, ended) - 1
    rate = len(sent) / 60
    assert little_error(float(seen.mean()), rate, float((ended - sent).mean()) / SECOND) < 0.05


def test_a_queue_that_does_not_keep_up_has_a_growing_backlog() -> None:
    for per_second, grows in ((80, False), (140, True)):
        sent, ended = queue(per_second, 0.008)
        assert backlog_grows(sent / SECOND, in_flight_at_sends(sent, ended)) is grows


def test_few_requests_show_no_slope() -> None:
    assert not backlog_grows(np.arange(5.0), np.arange(5.0))


def test_goodput_counts_what_came_rightly_and_in_time() -> None:
    latencies, failed = np.array([1.0, 2.0, 3.0, 2.0]), np.array([False, False, False, True])
    assert goodput(latencies, failed, 2.0, 2.0) == 1.0


def test_a_million_predictions_cost_the_hours_that_they_take() -> None:
    assert cost_per_million(1.0, 100, rows=2) == pytest.approx(1e6 / 200 / 3600)
