"""A large document costs about what its text and its tensors cost, and is read as a parser would read it whole.

The kind: every form in which a dialect takes many values (flat and nested lists, rows that are lists or objects,
examples, values of several types, documents that are wrong at their end), and not numbers in ``data`` alone.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

import orjson
import pytest

from gateway.codecs import cuts, large, tfserving_examples, tfserving_predict, torchserve, v2
from gateway.errors import DuetError, InvalidArgument
from gateway.types import Signature, TensorSpec, VersionMetadata
from tests.gateway.codecs.documents import calls, outcome

#: Of a document that counts as large here, and its pieces: a 64th of what they are.
_SIZE, _MIN_BYTES, _BLOCK_BYTES = 1 << 18, 1 << 14, 1 << 10
_FP32 = Signature((TensorSpec("x", "FP32", (-1, -1)),), ())


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def set_to(min_bytes: int, block_bytes: int) -> None:
        monkeypatch.setattr(large, "MIN_BYTES", min_bytes)
        monkeypatch.setattr(cuts, "BLOCK_BYTES", block_bytes)

    return set_to


def differences(seeds: range, sizes: Callable[[int, int], None]) -> Iterator[tuple[int, str, bytes, str, str]]:
    for seed in seeds:
        random = Random(seed)
        for name, body, decode in calls(seed, random.choice((6, 24, 24, 80))):
            sizes(1 << 40, 1 << 16)
            whole = outcome(decode, body)
            sizes(0, random.choice((3, 8, 16, 40, 100)))
            pieces = outcome(decode, body)
            if pieces != whole:
                yield seed, name, body, whole, pieces


def test_in_pieces_every_document_gives_what_it_gives_as_a_whole(sizes: Callable[[int, int], None]) -> None:
    """Values, types and errors, to the letter: numbers of all kinds, uneven lists, equal keys, escapes, wrong bytes."""
    assert not list(differences(range(60), sizes))


@pytest.mark.full
def test_in_pieces_a_hundred_thousand_documents_give_what_they_give_as_a_whole(
    sizes: Callable[[int, int], None],
) -> None:
    assert not list(differences(range(1000, 21_000), sizes))


@pytest.mark.parametrize("block", [2, 5, 64])
def test_any_value_comes_back_from_its_pieces(sizes: Callable[[int, int], None], block: int) -> None:
    values: list[Any] = [
        [[1, 2], [3, [4, 5, {"a": [6, "x,]"]}]], []],
        {"a": {"b": [1, {"c": "\\\"", "d": [[[]]]}], "e": {}}, "f": [None, True, 1.5]},
        [["\\", '"', ",[", "\\\\\""], "é" * 40, {"\\\"": "]"}],
        [{}, {"k": 1}, [{"k": [{}]}]],
    ]  # fmt: skip
    for value in values:
        for text in (orjson.dumps(value), orjson.dumps(value, option=orjson.OPT_INDENT_2)):
            sizes(0, block)
            assert as_plain(large.loads(text)) == value


def as_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [as_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: as_plain(value[key]) for key in value}
    return value


def filled(head: bytes, unit: bytes, tail: bytes, size: int = _SIZE) -> bytes:
    return head + b",".join([unit] * ((size - len(head)) // (len(unit) + 1))) + tail


def flat(datatype: bytes, unit: bytes, tail: bytes = b"]}]}") -> bytes:
    count = b"%d" % (_SIZE // (len(unit) + 1))
    head = b'{"inputs":[{"name":"x","datatype":"%b","shape":[%b],"data":[' % (datatype, count)
    return head + b",".join([unit] * int(count)) + tail


def predict(body: bytes) -> Any:
    return tfserving_predict.decode(body, VersionMetadata(1, True, {"serving_default": _FP32}))


def bare(body: bytes) -> Any:
    return torchserve.decode(body, _FP32, "application/json")


ROW = b"[1.5,2.5,3.5,4.5,5.5,6.5,7.5,8.5]"
FORMS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "v2, numbers": (v2.decode_request, flat(b"FP32", b"1.5")),
    "v2, whole numbers": (v2.decode_request, flat(b"INT64", b"257")),
    "v2, wrong at its end": (v2.decode_request, flat(b"FP32", b"1.5", b',"a"]}]}')),
    "TensorFlow Serving, rows": (predict, filled(b'{"instances":[', ROW, b"]}")),
    "TensorFlow Serving, rows that are objects": (predict, filled(b'{"instances":[', b'{"x":%b}' % ROW, b"]}")),
    "TensorFlow Serving, one row": (predict, filled(b'{"instances":[[', b"1.5", b"]]}")),
    "TensorFlow Serving, columns": (predict, filled(b'{"inputs":{"x":[', ROW, b"]}}")),
    "TensorFlow Serving, an uneven row": (predict, filled(b'{"instances":[', ROW, b",[1]]}")),
    "TensorFlow Serving, a key twice": (predict, filled(b'{"instances":[', ROW, b'],"instances":1}')),
    "TensorFlow Serving, an example": (tfserving_examples.decode, filled(b'{"examples":[{"a":[', b"1.5", b"]}]}")),
    "TorchServe, bare": (bare, filled(b"[", ROW, b"]")),
    "TorchServe, numbers of two types": (bare, filled(b"[[", b"257,1.5,-0", b"]]")),
    "TorchServe, nobody's members": (bare, filled(b"[", b'{"a":%b,"b":{"c":%b}}' % (ROW, ROW), b"]")),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_large_document_takes_a_few_times_its_size(form: str, sizes: Callable[[int, int], None]) -> None:
    """Whole, each takes 8 to 25 times its size. Up to twice its size are its tensors."""
    sizes(_MIN_BYTES, _BLOCK_BYTES)
    decode, body = FORMS[form]
    tracemalloc.start()
    try:
        outcome_of(decode, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body), peak / len(body)


@pytest.mark.parametrize("end", [b"]", b"]]}]}", b""], ids=["in a list", "in a tensor", "without an end"])
@pytest.mark.parametrize("letter", ["a", "\U0001f600", "\\u00e9"])
def test_a_string_that_python_would_make_four_times_as_large_is_refused(letter: str, end: bytes) -> None:
    unit = letter.encode()
    text = b'"' + unit * (large.MAX_TEXT_BYTES // len(unit) + 1) + b'"'
    head = b'{"inputs":[{"data":[' if end.startswith(b"]]}") else b"[" if end else b""
    with pytest.raises(InvalidArgument, match=r"a string of the JSON takes \d+ bytes; at most"):
        large.loads(head + text + end)


@pytest.mark.parametrize("decode", [v2.decode_request, predict, bare])
def test_a_string_of_the_longest_that_is_taken_comes_through(decode: Callable[[bytes], Any]) -> None:
    """As far as what a string may be: what is wrong with it then is another matter."""
    body = b'{"instances":["' + b"\\u00e9" * (1 << 20) + b'"]}'
    with suppress(DuetError):
        decode(body)
    assert large.loads(body)["instances"][0] == "é" * (1 << 20)


def outcome_of(decode: Callable[[bytes], Any], body: bytes) -> None:
    """Without making text of the result."""
    with suppress(DuetError):
        decode(body)
