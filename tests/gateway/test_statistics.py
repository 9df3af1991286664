from __future__ import annotations

from gateway.statistics import Served, Statistics

DOUBLE = Served("double", "pytorch", "1")
TIMINGS = {"decode": 0.001, "backend": 0.01, "encode": 0.002}


def test_a_success_counts_its_rows_and_where_its_time_went() -> None:
    statistics = Statistics()
    statistics.record(DOUBLE, ok=True, seconds=0.5, rows=3, execution_rows=3, timings=TIMINGS)
    statistics.record(DOUBLE, ok=True, seconds=0.5, rows=3, execution_rows=3, timings=TIMINGS | {"queue": 0.25})
    counts = statistics.of(DOUBLE)
    assert (counts.inferences, counts.executions) == (6, 2)
    assert (counts.success.count, counts.success.ns) == (2, 1_000_000_000)
    assert (counts.queue.count, counts.queue.ns) == (2, 250_000_000)
    for compute in (counts.compute, counts.batches[3]):
        assert (compute.input.count, compute.input.ns) == (2, 2_000_000)
        assert (compute.infer.ns, compute.output.ns) == (20_000_000, 4_000_000)


def test_a_failure_counts_as_such_and_as_nothing_else() -> None:
    statistics = Statistics()
    statistics.record(DOUBLE, ok=False, seconds=0.5, rows=3, execution_rows=3, timings=TIMINGS)
    counts = statistics.of(DOUBLE)
    assert (counts.fail.count, counts.fail.ns) == (1, 500_000_000)
    assert (counts.success.count, counts.inferences, counts.executions, counts.last_milliseconds) == (0, 0, 0, 0)
    assert not counts.batches


def test_what_was_never_called_has_counts_of_0_and_takes_no_memory() -> None:
    statistics = Statistics()
    assert statistics.of(DOUBLE).success.count == 0
    assert not list(statistics)


def test_a_client_that_sends_every_size_of_batch_fills_no_memory() -> None:
    statistics = Statistics()
    for rows in range(1, 1001):
        statistics.record(DOUBLE, ok=True, seconds=0.1, rows=rows, execution_rows=rows, timings=TIMINGS)
    counts = statistics.of(DOUBLE)
    assert counts.executions == 1000
    assert len(counts.batches) == 128


def test_requests_that_ran_together_are_one_execution_of_all_their_rows() -> None:
    statistics = Statistics()
    statistics.record(DOUBLE, ok=True, seconds=0.1, rows=3, execution_rows=5, timings=TIMINGS)
    statistics.record(DOUBLE, ok=True, seconds=0.1, rows=2, execution_rows=0, timings=TIMINGS)
    counts = statistics.of(DOUBLE)
    assert (counts.inferences, counts.executions, counts.success.count) == (5, 1, 2)
    assert {rows: compute.infer.count for rows, compute in counts.batches.items()} == {5: 1}


def test_an_answer_from_the_cache_is_a_success_and_no_execution() -> None:
    statistics = Statistics()
    statistics.record(DOUBLE, ok=True, seconds=0.1, rows=3, execution_rows=3, timings=TIMINGS | {"cache_miss": 0.1})
    statistics.record(DOUBLE, ok=True, seconds=0.1, rows=3, execution_rows=0, timings={"cache_hit": 0.2})
    counts = statistics.of(DOUBLE)
    assert (counts.inferences, counts.executions, counts.success.count) == (6, 1, 2)
    assert (counts.cache_hit.count, counts.cache_hit.ns) == (1, 200_000_000)
    assert (counts.cache_miss.count, counts.cache_miss.ns) == (1, 100_000_000)
    assert counts.compute.infer.count == 1
