from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.recorder import DROPPED, FAILED, OK, TIMED_OUT, Block, Recorder

SECOND = 10**9


def recorded(folder: Path, *rows: tuple[int, ...], name: str = "block.npy") -> Path:
    recorder = Recorder()
    for row in rows:
        recorder.add(*row)
    recorder.write(folder / name)
    return folder / name


def test_nanoseconds_survive_the_file(tmp_path: Path) -> None:
    block = Block.read([recorded(tmp_path, (1_000_000_001, 1_000_000_002, 1_000_000_008, OK, 17, 3))])
    assert [int(column[0]) for column in (block.intended, block.sent, block.ended, block.size, block.payload)] == [
        1_000_000_001,
        1_000_000_002,
        1_000_000_008,
        17,
        3,
    ]


def test_latency_counts_from_the_intended_time(tmp_path: Path) -> None:
    """Sent 3 ms late and answered 2 ms after that: 5 ms, of which 3 are lag."""
    block = Block.read([recorded(tmp_path, (0, 3_000_000, 5_000_000, OK, 0, 0))])
    assert block.latencies_ms(10).tolist() == [5]
    assert block.lags_ms.tolist() == [3]
    assert block.service_ms.tolist() == [2]


@pytest.mark.parametrize("status", [FAILED, TIMED_OUT])
def test_what_failed_counts_as_the_time_out_however_quick_it_was(tmp_path: Path, status: int) -> None:
    block = Block.read([recorded(tmp_path, (0, 0, 1_000, status, 0, 0))])
    assert block.latencies_ms(10).tolist() == [10_000]
    assert block.failed.tolist() == [True]


def test_the_files_of_all_workers_are_one_block_in_the_order_of_time(tmp_path: Path) -> None:
    one = recorded(tmp_path, (5, 5, 9, OK, 0, 0), (1, 1, 2, OK, 0, 0), name="0.npy")
    other = recorded(tmp_path, (3, 3, 4, DROPPED, 0, 0), name="1.npy")
    assert Block.read([one, other]).intended.tolist() == [1, 3, 5]
    assert Block.read([one, other]).without_dropped().intended.tolist() == [1, 5]


def test_the_warm_up_is_thrown_away(tmp_path: Path) -> None:
    rows = [(n * SECOND, n * SECOND, n * SECOND + 1, OK, 0, 0) for n in range(10)]
    assert len(Block.read([recorded(tmp_path, *rows)]).after(3)) == 7


def test_an_empty_block_can_be_written_and_read(tmp_path: Path) -> None:
    block = Block.read([recorded(tmp_path)])
    assert len(block) == 0
    assert len(block.after(1)) == 0


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        Recorder().write(tmp_path / "nowhere" / "block.npy")
    assert not list(tmp_path.iterdir())
