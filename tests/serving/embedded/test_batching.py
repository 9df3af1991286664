"""Calls that arrive together run as one; what each gets is what it would have got alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.embedded import config
from serving.embedded.batching import Batcher, Parameters
from serving.embedded.errors import ServingError
from serving.embedded.flags import Flags
from serving.embedded.tensors import Array


class Doubling:
    """Twice its first input; remembers how many rows each run had, and its deadline."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.deadlines: list[float | None] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(
        self, feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], *, deadline: float | None = None
    ) -> list[Array]:
        self.deadlines.append(deadline)
        self.sizes.append(len(values[0]))
        self.go.wait(10)
        return [values[0] * 2 for _ in fetches]


def rows(*numbers: float) -> list[Array]:
    return [np.array(numbers, np.float32)]


def ask(batcher: Batcher, *numbers: float) -> list[float]:
    return batcher.run(["x"], rows(*numbers), ["y"])[0].tolist()


def test_concurrent_calls_share_a_run_and_get_their_own_rows() -> None:
    model = Doubling()
    batcher = Batcher(model, Parameters(max_batch_size=8, batch_timeout_micros=5_000_000))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask(batcher, number), range(8)))
    assert answers == [[2 * number] for number in range(8)]
    assert model.sizes == [8]


def test_a_batch_that_is_not_full_goes_after_its_time() -> None:
    model = Doubling()
    assert ask(Batcher(model, Parameters(batch_timeout_micros=1000)), 1, 2) == [2, 4]
    assert model.sizes == [2]


def test_batches_are_padded_to_an_allowed_size() -> None:
    model = Doubling()
    assert ask(Batcher(model, Parameters(max_batch_size=8, allowed_batch_sizes=(4, 8))), 1, 2, 3) == [2, 4, 6]
    assert model.sizes == [4]


def test_a_task_over_the_limit_is_refused() -> None:
    with pytest.raises(ServingError, match="Task size 3 is larger than maximum input batch size 2"):
        ask(Batcher(Doubling(), Parameters(max_batch_size=2)), 1, 2, 3)


def test_a_full_queue_is_unavailable() -> None:
    model = Doubling()
    model.go.clear()
    batcher = Batcher(model, Parameters(max_batch_size=1, max_enqueued_batches=1, num_batch_threads=1))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, batcher, 1)
        while not model.sizes:
            pass
        second = pool.submit(ask, batcher, 2)
        while not batcher._waiting:
            pass
        with pytest.raises(ServingError, match="queue to which this task was submitted is full") as caught:
            ask(batcher, 3)
        model.go.set()
        assert (first.result(10), second.result(10)) == ([2], [4])
    assert caught.value.code.name == "UNAVAILABLE"


def test_inputs_of_other_lengths_are_refused() -> None:
    batcher = Batcher(Doubling(), Parameters())
    with pytest.raises(ServingError, match="equal 0th-dimension size"):
        batcher.run(["a", "b"], [*rows(1), *rows(1, 2)], ["y"])
    with pytest.raises(ServingError, match="at least one dimension"):
        batcher.run(["a"], [np.array(1.0)], ["y"])


def test_an_error_reaches_every_call_of_the_batch() -> None:
    def shrink(
        feeds: Sequence[str], values: Sequence[Array], fetches: Sequence[str], *, deadline: float | None = None
    ) -> list[Array]:
        return [values[0][:1]]

    batcher = Batcher(shrink, Parameters(max_batch_size=2, batch_timeout_micros=5_000_000))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(ask, batcher, number) for number in (1, 2)]
        for call in calls:
            with pytest.raises(ServingError, match="Batched output tensor's 0th dimension"):
                call.result(10)


def test_a_batch_has_the_latest_of_its_calls_deadlines_or_none() -> None:
    """And a call without one makes the whole batch endless, as in TfLiteSession and BatchingSession."""
    model = Doubling()
    batcher = Batcher(model, Parameters(max_batch_size=2, batch_timeout_micros=5_000_000))
    soon, late = time.monotonic() + 50, time.monotonic() + 90
    for pair in ((soon, late), (soon, None)):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda deadline: batcher.run(["x"], rows(1), ["y"], deadline=deadline), pair))
    assert model.deadlines == [late, None]


def test_a_call_whose_time_passes_in_the_queue_is_not_run() -> None:
    model = Doubling()
    with pytest.raises(ServingError, match="timeout exceeded while waiting in batching queue") as caught:
        Batcher(model, Parameters()).run(["x"], rows(1), ["y"], deadline=time.monotonic() - 1)
    assert (caught.value.code.name, model.sizes) == ("RESOURCE_EXHAUSTED", [])


def test_batches_and_their_queue_are_reported() -> None:
    told: list[tuple[str, int]] = []
    batcher = Batcher(
        Doubling(),
        Parameters(thread_pool_name="pool"),
        report=lambda pool, waited: told.append((pool, len(waited))),
    )
    ask(batcher, 1)
    assert told == [("pool", 1)]


def test_the_parameters_file_is_the_real_servers(tmp_path: Path) -> None:
    path = tmp_path / "batching"
    path.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 100 } num_batch_threads { value: 2 } "
        "allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    )
    found = config.batching(Flags(enable_batching=True, batching_parameters_file=str(path)))
    assert found == Parameters(8, 100, 10, 2, (4, 8))
    assert config.batching(Flags()) is None


@pytest.mark.parametrize("text", ["nonsense", "max_batch_size { value: 8 } allowed_batch_sizes: 4"])
def test_parameters_that_cannot_be_used_are_a_configuration_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "batching"
    path.write_text(text)
    with pytest.raises(config.ConfigError):
        config.batching(Flags(enable_batching=True, batching_parameters_file=str(path)))
    with pytest.raises(config.ConfigError, match="without setting"):
        config.batching(Flags(batching_parameters_file=str(path)))
