"""The model of the rig: each row's answer says which row it answers, and which version gave it.

``x`` FP32 [n, 4] -> ``y`` FP32 [n, 4], x times one more than the version, and ``h`` INT64 [n, 1], a hash of the row's
bytes and the version. An answer that belongs to another request, or to another version than it says, cannot hide.
"""

from __future__ import annotations

import hashlib
import random
import struct

WIDTH = 4
SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, WIDTH]}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1, WIDTH]},
        {"name": "h", "datatype": "INT64", "shape": [-1, 1]},
    ],
}
#: A row that begins with this kills the server that works on it. No whole number: trying out whether rows are
#: independent makes other rows of those there are.
POISON = 31337.25


def row_hash(row: bytes, version: int) -> int:
    return int.from_bytes(hashlib.blake2b(row + bytes([version]), digest_size=6).digest(), "little")


def answer(x: bytes, version: int) -> tuple[bytes, bytes]:
    """The bytes of y and h, little-endian."""
    numbers = struct.unpack(f"<{len(x) // 4}f", x)
    y = struct.pack(f"<{len(numbers)}f", *(number * (version + 1) for number in numbers))
    rows = [x[start : start + 4 * WIDTH] for start in range(0, len(x), 4 * WIDTH)]
    return y, struct.pack(f"<{len(rows)}q", *(row_hash(row, version) for row in rows))


def rows(count: int, seed: int = 0) -> list[tuple[float, ...]]:
    """Rows that are all different; small whole numbers, which are the same in every notation."""
    rng = random.Random(seed)
    return [(float(number), *(float(rng.randint(-99, 99)) for _ in range(WIDTH - 1))) for number in range(count)]


def is_right(row: tuple[float, ...], version: int, y: list[float], h: list[int]) -> bool:
    packed = struct.pack(f"<{WIDTH}f", *row)
    return [number * (version + 1) for number in row] == list(y) and [row_hash(packed, version)] == list(h)
