"""Which bodies go to the process that decodes large ones: whatever is parsed, however it is spelled."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import orjson
import pytest

from gateway.codecs import torchserve as codec
from gateway.codecs import torchserve_values as values
from gateway.types import Signature, TensorSpec

NUMBERS = Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
TEXT = Signature((TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
DOCUMENT = orjson.dumps([0.5] * 40_000)
FLOATS = b"\x00\x00\x80\x3f" * 40_000
PART = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + DOCUMENT + b"\r\n--b--\r\n"

PARSED = {
    "JSON": (DOCUMENT, "application/json"),
    "JSON without a type": (DOCUMENT, None),
    "64 spaces first": (b" " * 64 + DOCUMENT, None),
    "a thousand lines first": (b"\r\n\t " * 1000 + DOCUMENT, None),
    "JSON as text": (DOCUMENT, "text/plain; charset=utf-8"),
    "JSON of some kind": (DOCUMENT, "application/vnd.mine+json"),
    "JSON as a picture": (DOCUMENT, "image/png"),
    "JSON in a form": (b"data=" + DOCUMENT, "application/x-www-form-urlencoded"),
    "JSON as a form": (DOCUMENT, "application/x-www-form-urlencoded"),
    "JSON in a part": (PART, "multipart/form-data; boundary=b"),
    "JSON behind a part's spaces": (
        PART.replace(b"\n\r\n[", b"\n\r\n" + b" " * 64 + b"["),
        "multipart/form-data; boundary=b",
    ),
    "a string": (b'"' + b"a" * 200_000 + b'"', None),
    "text": (b"a" * 200_000, None),
}
READ = {
    "floats": (FLOATS, "application/octet-stream"),
    "floats without a type": (FLOATS, None),
    "floats as a picture": (FLOATS, "image/png"),
    "a file of numpy": (b"\x93NUMPY\x01\x00v\x00" + FLOATS, "application/x-npy"),
}


@pytest.mark.parametrize("name", PARSED)
def test_what_is_parsed_goes_aside_however_it_is_spelled(name: str) -> None:
    body, content_type = PARSED[name]
    assert codec.may_be_parsed(body, content_type, None)


@pytest.mark.parametrize("name", READ)
def test_bytes_stay_where_they_lie(name: str) -> None:
    body, content_type = READ[name]
    assert not codec.may_be_parsed(body, content_type, None)


def test_of_a_binary_body_the_part_that_is_json_counts_alone() -> None:
    assert not codec.may_be_parsed(DOCUMENT, None, 40)


def test_inputs_over_grpc_count_together() -> None:
    """A hundred values of 2 KB take as long as one of 200."""
    assert codec.named_may_be_parsed({"x": DOCUMENT}, 100_000)
    assert codec.named_may_be_parsed({str(n): b" [1.5,2.5]" * 200 for n in range(100)}, 100_000)
    assert not codec.named_may_be_parsed({"x": FLOATS}, 100_000)
    assert not codec.named_may_be_parsed({"x": b"[1]"}, 100_000)


def test_a_text_is_the_same_however_many_spaces_come_first() -> None:
    """64 of them made another tensor of a list, and took it past the process for large bodies."""
    for spaces in (0, 1, 63, 64, 65, 5000):
        body = codec.decode(b" " * spaces + b'["a","b"]', TEXT)
        assert body.inputs[0].data.tolist() == [b"a", b"b"], spaces
    assert values.parsed_text(b" " * 100 + b"a") is None


@pytest.mark.parametrize(
    ("dtype", "count", "goes"),
    [("<f4", 1 << 20, False), ("<f8", 1 << 20, True), (">i4", 1 << 20, True), ("<f8", 1 << 10, False)],
    ids=["as it is", "narrowed", "made floats", "small"],
)
def test_a_large_file_of_numpy_goes_aside_where_its_numbers_are_converted(dtype: str, count: int, goes: bool) -> None:
    stream = BytesIO()
    np.save(stream, np.ones(count, dtype))
    body = stream.getvalue()
    assert codec.is_converted(body, NUMBERS) is goes
    assert codec.named_may_be_parsed({"x": body}, 100_000) is (count > 1 << 10)


def test_what_only_begins_like_a_file_of_numpy_is_refused_where_it_came() -> None:
    assert not codec.is_converted(b"\x93NUMPY\x09" + bytes(5 << 20), NUMBERS)
