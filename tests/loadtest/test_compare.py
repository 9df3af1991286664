from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import orjson
import pytest

from loadtest.compare import LoadFailed, order, run, summarise
from loadtest.payloads import json_body
from loadtest.recorder import Block, Recorder

SECOND = 10**9


def block(milliseconds: list[float], *, failed: int = 0, gap: float = 0) -> Block:
    """Requests one after the other, of the given lengths."""
    lengths = (np.array(milliseconds) * 1e6).astype(np.int64)
    ended = np.cumsum(lengths + int(gap * 1e6))
    return Block(ended - lengths, ended, np.arange(len(lengths)) < failed)


def test_samples_survive_the_file(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.add(1_000_000_001, 1_000_000_008, failed=False)
    recorder.add(5, 7, failed=True)
    recorder.write(tmp_path / "samples.npy")
    read = Block.read(tmp_path / "samples.npy")
    assert read.started.tolist() == [1_000_000_001, 5]
    assert read.ended.tolist() == [1_000_000_008, 7]
    assert read.failed.tolist() == [False, True]


def test_an_empty_block_can_be_written_and_read(tmp_path: Path) -> None:
    Recorder().write(tmp_path / "samples.npy")
    assert len(Block.read(tmp_path / "samples.npy").after(1).milliseconds) == 0


def test_the_warm_up_is_thrown_away() -> None:
    assert len(block([100] * 30).after(1).milliseconds) == 20


def test_percentiles_and_rate_are_exact() -> None:
    """A hundred requests of 1 to 100 ms, one after the other: 5.05 s in all."""
    result = summarise("tensorflow", [block(list(range(1, 101)), failed=3)])
    assert result.requests == 100
    assert result.failed == 3
    assert result.p50 == pytest.approx(50.5)
    assert result.p99 == pytest.approx(99.01)
    assert result.requests_per_second == pytest.approx(100 / 5.05)


def test_each_framework_goes_first_equally_often() -> None:
    turns = order(4)
    assert turns[:4] == ["tensorflow", "pytorch", "pytorch", "tensorflow"]
    assert turns[4:] == ["pytorch", "tensorflow", "tensorflow", "pytorch"]


def test_the_body_is_the_catalogs_example() -> None:
    body = orjson.loads(json_body("linear_regression", rows=3))
    assert body == {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 1], "data": [[5.0], [5.0], [5.0]]}]}


@pytest.fixture
def gateway() -> Iterator[str]:
    """Answers every tenth request with 503."""
    count = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            nonlocal count
            count += 1
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(503 if count % 10 == 0 else 200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_locust_makes_the_load_and_failures_are_counted(gateway: str) -> None:
    lines: list[str] = []
    results = run(
        url=gateway, model="linear_regression", users=2, seconds=1, rounds=1, warm_up=0.2, report=lines.append
    )
    assert len(lines) == 2
    assert [result.variant for result in results] == ["tensorflow", "pytorch"]
    for result in results:
        assert result.requests > 20
        assert 0.05 < result.failed / result.requests < 0.2
        assert 0 < result.p50 <= result.p95 <= result.p99


def test_no_gateway_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="not one request ended"):
        summarise("pytorch", [Block(*np.empty((2, 0), np.int64), np.empty(0, np.bool_))])
