"""Two ways to run a graph: the caller's own thread, and TensorFlow's threads with a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.embedded.config import ConfigError
from serving.embedded.errors import ServingError
from serving.embedded.flags import Flags
from serving.embedded.loading import session_settings
from serving.embedded.session import Session
from tests.serving.embedded.process import Server

#: Operators at once: one, which lets a call run in its caller's thread, and two, which does not.
THREADS = (1, 2)
ENDLESS = np.array(100_000_000, np.int32)


def far() -> float:
    return time.monotonic() + 60


@pytest.fixture(scope="module", params=THREADS, ids="{} at once".format)
def sessions(request: pytest.FixtureRequest, store: Path) -> Iterator[dict[str, Session]]:
    settings = session_settings(Flags(tensorflow_inter_op_parallelism=request.param))
    made = {name: Session(store / name / "1", tags=["serve"], settings=settings) for name in ("half", "slow", "text")}
    yield made
    for session in made.values():
        session.close()


def test_concurrent_calls_get_their_own_values_with_and_without_a_deadline(sessions: dict[str, Session]) -> None:
    """A loop in the graph among them."""

    def ask(number: int) -> tuple[float, float]:
        deadline = far() if number % 2 else None
        x, n = np.float32([[number]]), np.array(number % 5, np.int32)
        (y,) = sessions["half"].run(["x:0"], [x], ["y:0"], deadline=deadline)
        (mean,) = sessions["slow"].run(["n:0"], [n], ["Mean:0"], deadline=deadline)
        return y.item(), mean.item()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(400)))
    assert answers == [(number / 2 + 2, 1.0) for number in range(400)]


@pytest.mark.parametrize("deadline", [None, 60])
def test_strings_and_scalars_come_back_whole(sessions: dict[str, Session], deadline: float | None) -> None:
    for value in (np.array(b"a\0", np.object_), np.array([b"", b"\xff\0"], np.object_)):
        for _ in range(3):
            limit = deadline and time.monotonic() + deadline
            (found,) = sessions["text"].run(["s:0"], [value], ["Identity:0"], deadline=limit)
            assert (found.shape, found.tolist()) == (value.shape, value.tolist())


@pytest.mark.parametrize("deadline", [None, 60])
def test_a_wrong_dtype_is_refused(sessions: dict[str, Session], deadline: float | None) -> None:
    limit = deadline and time.monotonic() + deadline
    with pytest.raises(ServingError) as caught:
        sessions["half"].run(["x:0"], [np.int32([[1]])], ["y:0"], deadline=limit)
    assert caught.value.code.name == "INVALID_ARGUMENT"


def test_a_run_ends_at_its_deadline(sessions: dict[str, Session]) -> None:
    """Even where every run so far was so quick that a run without a limit would have been safe."""
    for number in (1, 1, 500):
        sessions["slow"].run(["n:0"], [np.array(number, np.int32)], ["Mean:0"], deadline=far())
    with pytest.raises(ServingError, match=r"^Timed out waiting for notification$") as caught:
        sessions["slow"].run(["n:0"], [ENDLESS], ["Mean:0"], deadline=time.monotonic() + 0.05)
    assert caught.value.code.name == "DEADLINE_EXCEEDED"


def test_who_waits_for_the_only_thread_gives_up_at_the_deadline(store: Path) -> None:
    settings = session_settings(Flags(tensorflow_inter_op_parallelism=1))
    session = Session(store / "slow" / "1", tags=["serve"], settings=settings)
    session.run(["n:0"], [np.array(1, np.int32)], ["Mean:0"])
    begun = threading.Event()

    def hold() -> None:
        begun.set()
        session.run(["n:0"], [np.array(40_000, np.int32)], ["Mean:0"])  # seconds

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait()
    time.sleep(0.2)
    with pytest.raises(ServingError, match="Timed out"):
        session.run(["n:0"], [np.array(1, np.int32)], ["Mean:0"], deadline=time.monotonic() + 0.3)
    assert holder.is_alive()
    holder.join()
    session.close()


def test_only_what_ran_quickly_in_its_callers_thread_and_has_no_loop_is_quick(store: Path) -> None:
    """Others may not run where every call would wait for them."""
    for threads in THREADS:
        settings = session_settings(Flags(tensorflow_inter_op_parallelism=threads))
        half, slow = (Session(store / name / "1", tags=["serve"], settings=settings) for name in ("half", "slow"))
        assert not half.quick(["x:0"], ["y:0"]), "it has not run yet"
        for _ in range(300):
            half.run(["x:0"], [np.float32([[1]])], ["y:0"])
            slow.run(["n:0"], [np.array(0, np.int32)], ["Mean:0"])
        assert half.quick(["x:0"], ["y:0"]) is (threads == 1)
        assert not slow.quick(["n:0"], ["Mean:0"])
        half.close()
        slow.close()


def test_a_model_that_takes_long_holds_up_no_other(server: Server) -> None:
    """Four runs that would never end, and quick calls beside them, over one connection."""
    endless = predict_pb2.PredictRequest(inputs={"n": tf.make_tensor_proto(ENDLESS)})
    endless.model_spec.name = "slow"
    quick = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(np.float32([[1]]))})
    quick.model_spec.name = "half"
    running = [server.prediction.Predict.future(endless, 10) for _ in range(4)]
    for _ in range(50):
        assert list(server.prediction.Predict(quick, 9).outputs["y"].float_val) == [3.5]  # of version 2
    assert not any(call.done() for call in running), "they ended before the quick calls did"
    assert {call.code() for call in running} == {grpc.StatusCode.DEADLINE_EXCEEDED}


def test_a_call_that_its_client_gave_up_does_not_run_on(server: Server) -> None:
    """The deadline of the call is the run's: soon after it the server is at rest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "slow"
    request.inputs["n"].dtype = 3
    request.inputs["n"].int_val.append(ENDLESS.item())
    call = server.prediction.Predict.future(request, 1)
    assert call.code().name == "DEADLINE_EXCEEDED"
    process = psutil.Process(server.process.pid)

    def busy_seconds() -> float:
        before = sum(process.cpu_times()[:2])
        time.sleep(1)
        return sum(process.cpu_times()[:2]) - before

    assert any(busy_seconds() < 0.3 for _ in range(10))


def test_settings_of_all_three_kinds_contradict_each_other() -> None:
    flags = Flags(
        tensorflow_session_parallelism=1, tensorflow_intra_op_parallelism=1, tensorflow_inter_op_parallelism=1
    )
    with pytest.raises(ConfigError, match="You cannot configure all"):
        session_settings(flags)


def test_flags_come_before_the_session_file(tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_text("intra_op_parallelism_threads: 3 log_device_placement: true")
    settings = session_settings(Flags(tensorflow_session_config_file=str(path)))
    assert (settings.intra_op_parallelism_threads, settings.log_device_placement) == (3, True)
    flags = Flags(tensorflow_session_config_file=str(path), tensorflow_session_parallelism=2)
    settings = session_settings(flags)
    assert (settings.intra_op_parallelism_threads, settings.inter_op_parallelism_threads) == (2, 2)
