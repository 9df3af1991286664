"""Random tensors of every datatype, with the values that wires are known to lose."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import strategies as st

from gateway.codecs import raw
from gateway.types import DATATYPES, Tensor

#: Bit patterns at the edges, as unsigned integers of each width in bytes.
_EDGES: dict[int, list[int]] = {
    1: [0, 1, 0x7F, 0x80, 0xFF],
    2: [0, 1, 0x3C00, 0x7FFF, 0x8000, 0xFFFF],
    4: [0, 1, 0x3DCCCCCD, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF],
    8: [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1],
}
#: Infinities, and NaNs with a payload: quiet ones, and signalling ones, which a conversion makes quiet.
_NOT_FINITE: dict[str, list[int]] = {
    "FP16": [0x7C00, 0xFC00, 0x7C01, 0x7E55, 0xFD55],
    "FP32": [0x7F800000, 0xFF800000, 0x7F800001, 0xFFA12345, 0x7FC12345],
    "FP64": [0x7FF0 << 48, 0xFFF0 << 48, 0x7FF0 << 48 | 1, 0xFFF4 << 48 | 0xBEEF, 0x7FF8 << 48 | 0xBEEF],
}
#: Texts that a wire may take for something else: nothing, a number, JSON, a Base64 object, an .npy file.
_TEXTS = ["", "1", "NaN", "[1]", '{"b64": "AA=="}', "\x93NUMPY", "你好", "\U0001f600", "a\x00b", "\r\n--b--"]


#: Those that most models take, more often.
_DATATYPES = [*DATATYPES, "FP32", "FP64", "INT64", "BYTES"]


@st.composite
def tensors(draw: st.DrawFn, *, name: str = "t") -> Tensor:
    """Half of those with floats are finite, half of those with strings are UTF-8: most wires take no others."""
    datatype = draw(st.sampled_from(_DATATYPES))
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 2, 3]), max_size=4)))
    count, tame = prod(shape), draw(st.booleans())
    if datatype == "BYTES":
        text = st.sampled_from(_TEXTS).map(str.encode) | st.text(max_size=8).map(str.encode)
        strings = np.empty(count, np.object_)
        strings[:] = draw(st.lists(text if tame else st.binary(max_size=8), min_size=count, max_size=count))
        return Tensor(name, datatype, strings.reshape(shape))
    dtype = DATATYPES[datatype]
    width = dtype.itemsize
    # Not drawn by hypothesis, whose bytes are mostly zeros; of two elements one is an edge.
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    wild = dtype.kind == "f" and not tame
    edges = random.choice(np.array(_NOT_FINITE[datatype] if wild else _EDGES[width], f"u{width}"), count)
    bits = np.where(
        random.random(count) < 0.5, edges, random.integers(0, 2 ** (8 * width) - 1, count, f"u{width}", endpoint=True)
    )
    if dtype.kind == "b":
        return Tensor(name, datatype, (bits % 2).astype(np.bool_).reshape(shape))
    values = bits.view(dtype)
    if dtype.kind == "f" and tame:
        values = np.where(np.isfinite(values), values, dtype.type(0.1))
    return Tensor(name, datatype, values.reshape(shape))


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """Name, datatype, shape, and every bit."""
    assert (found.name, found.datatype, found.shape) == (wanted.name, wanted.datatype, wanted.shape)
    assert found.data.dtype == DATATYPES[wanted.datatype]
    assert bytes(raw.encode(found)) == bytes(raw.encode(wanted))
