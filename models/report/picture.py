"""A grey picture as a PNG in the page itself."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from models.spec import Array

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY_8_BIT = (8, 0, 0, 0, 0)
"""Depth, colour type, compression, filter, interlace: PNG specification (3rd edition), 11.2.1."""


def data_uri(pixels: Array) -> str:
    """[height, width] in 0..1, 1 black as ink on paper; values outside are cut."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def png(pixels: Array) -> bytes:
    grey = np.round(255 * (1 - np.clip(np.nan_to_num(pixels), 0, 1))).astype(np.uint8)
    height, width = grey.shape
    rows = b"".join(b"\0" + row.tobytes() for row in grey)  # each row begins with its filter: none
    header = struct.pack(">2I5B", width, height, *GREY_8_BIT)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
