"""CVE-2023-44487: calls that their client takes back as it sends them, faster than a limit on streams would count."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import psutil
import pytest

from gateway.protos import v2_pb2
from tests.fakes import http2
from tests.gateway.conftest import wait_for
from tests.security.door import MODEL, Door
from tests.security.test_bombs import CAP, V2, Memory

CALLS_AT_ONCE = 100


def message() -> bytes:
    asked = v2_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[b"\0\0\x80\x3f"])
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    return bytes(asked.SerializeToString())


@contextmanager
def others(door: Door) -> Iterator[list[grpc.StatusCode]]:
    """A client that behaves, from entry to exit: the codes of its calls."""
    codes: list[grpc.StatusCode] = []
    stop = threading.Event()

    def run() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}") as channel:
            call = channel.unary_unary(V2)
            while not stop.wait(0.01) or not codes:
                codes.append(call.future(message(), timeout=10).code())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield codes
    finally:
        stop.set()
        thread.join()


def attack(port: int, calls: int) -> int:
    """Over as many connections as the gateway makes it take; gives how many calls left here."""
    sent = 0
    while sent < calls:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            try:
                sock.sendall(http2.PREFACE)
                for first in range(0, calls - sent, CALLS_AT_ONCE):
                    streams = range(2 * first + 1, 2 * (first + CALLS_AT_ONCE), 2)
                    sock.sendall(b"".join(http2.call(n, V2, message()) + http2.reset(n) for n in streams))
                    sent += CALLS_AT_ONCE
            except OSError:
                sent += CALLS_AT_ONCE  # it has been closed on us
    return sent


@pytest.mark.parametrize("calls", [5_000, pytest.param(100_000, marks=pytest.mark.full)])
def test_calls_that_are_taken_back_at_once_harm_nobody(
    door: Door, calls: int, record_property: Callable[[str, object], None]
) -> None:
    memory = Memory(door)
    process = psutil.Process(door.gateway.process.pid)
    with others(door) as codes:
        wait_for(lambda: len(codes) > 0, "the others' first answer")
        memory.begin()
        begun = len(codes)
        assert attack(door.gateway.grpc_port, calls) >= calls
        # An attack may be over sooner than a call; then the next one shows that the gateway still answers.
        wait_for(lambda: len(codes) > begun + 1, "an answer to a call that began with the attack or after it")
    assert set(codes) == {grpc.StatusCode.OK}
    assert memory.grown() <= 2 * CAP
    assert process.is_running()
    record_property("cases", calls)
