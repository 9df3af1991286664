"""The real generator process against servers whose behaviour is known."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from loadtest.analysis.percentiles import percentile
from loadtest.calibration.instrument import Instrument
from loadtest.failures import LoadFailed
from loadtest.recorder import DROPPED, FAILED, OK, TIMED_OUT


@contextmanager
def listening(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Reads requests and gives each the same answer; none where it is empty. Yields the port and what was read."""
    seen: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                seen.append(data)
                if answer:
                    connection.sendall(answer)

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1], seen
    stopped.set()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_requests_go_out_at_their_scheduled_times_with_their_payloads(known: Instrument) -> None:
    job = known.job("/null", seconds=1, rate=100)
    (block,) = known.measure([job])
    assert np.diff(block.intended).tolist() == np.diff(job.arrivals()).tolist()
    assert (block.status == OK).all()
    assert (block.sent >= block.intended).all()
    assert (block.ended > block.sent).all()


def test_grpc_is_measured_too(known: Instrument) -> None:
    (block,) = known.measure([known.job("/grpc.Null/Echo", seconds=1, rate=100)])
    assert (block.status == OK).all()
    assert (block.size == 512).all(), "the echo of the payload"


def test_a_stall_is_seen_in_open_loop_and_missed_by_waiting_callers(known: Instrument) -> None:
    """A second of silence in three: more than a fifth of the requests wait for its end; of the callers', eight do."""
    path = "/known?delay=1&stall=1000&after=1000&run="
    ours, waiting = known.measure(
        [known.job(path + "1", seconds=3, rate=200), known.job(path + "2", seconds=3, callers=8)]
    )
    assert percentile(ours.latencies_ms(10), 90) > 500
    assert percentile(waiting.latencies_ms(10), 90) < 500
    assert (waiting.latencies_ms(10) > 500).sum() <= 16


def test_a_server_that_says_no_is_counted_at_the_time_out(known: Instrument) -> None:
    with listening(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy") as (port, _):
        job = replace(known.job("/", seconds=0.5, rate=100), port=port, timeout_seconds=3.0)
        (block,) = known.measure([job])
    assert (block.status == FAILED).all()
    assert (block.latencies_ms(3.0) >= 3000).all()


def test_a_server_that_is_silent_is_counted_at_the_time_out_and_holds_nobody_up(known: Instrument) -> None:
    with listening(b"") as (port, _):
        job = replace(known.job("/", seconds=1, rate=50), port=port, timeout_seconds=0.5)
        (block,) = known.measure([job])
    assert len(block) == len(job.arrivals())
    assert (block.status == TIMED_OUT).all()
    assert block.latencies_ms(0.5).tolist() == [500.0] * len(block)


def test_what_has_no_place_in_flight_is_dropped_and_counted(known: Instrument) -> None:
    with listening(b"") as (port, _):
        job = replace(known.job("/", seconds=0.5, rate=200), port=port, timeout_seconds=2.0, most_in_flight=10)
        (block,) = known.measure([job])
    assert (block.status == TIMED_OUT).sum() == 10
    assert (block.status == DROPPED).sum() == len(job.arrivals()) - 10


def test_a_connection_that_is_closed_without_an_answer_is_a_failure(known: Instrument) -> None:
    with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok") as (port, _):
        (block,) = known.measure([replace(known.job("/", seconds=0.5, rate=40), port=port, connections=2)])
    assert (block.status == OK).all(), "an answer that ends its connection is an answer; the next opens another"


def test_no_answer_is_asked_to_be_compressed(known: Instrument) -> None:
    with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as (port, seen):
        known.measure([replace(known.job("/", seconds=0.3, rate=50), port=port)])
    assert b"Accept-Encoding: identity\r\n" in seen[0]
    assert b"gzip" not in seen[0]


def test_waiting_callers_are_as_many_as_were_asked_for(known: Instrument) -> None:
    (block,) = known.measure([known.job("/known?delay=5", seconds=1, callers=4)])
    in_flight = [int(((block.sent <= time) & (block.ended > time)).sum()) for time in block.sent[:200]]
    assert max(in_flight) == 4


def test_nobody_there_is_said_in_a_line(known: Instrument) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(LoadFailed, match=f"cannot reach 127.0.0.1:{port}"):
        known.measure([replace(known.job("/", seconds=1, rate=10), port=port)])
