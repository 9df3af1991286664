"""The look over a document's structure, held to what a parser finds in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs import scan
from gateway.errors import InvalidArgument


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


def widest(value: Any) -> int:
    if isinstance(value, dict):
        return max(len(value), max(map(widest, value.values()), default=0))
    return max(map(widest, value), default=0) if isinstance(value, list) else 0


def refused(text: bytes) -> bool:
    try:
        scan.check(text)
    except InvalidArgument:
        return True
    return False


TEXTS = st.text(st.sampled_from('a[]{}:,"\\\n/é'), max_size=6)
MANY = st.integers(60, 70)
DEPTHS = st.integers(25, 40)


def wrapped(value: Any, levels: int, shape: int) -> Any:
    for level in range(levels):
        value = [value] if (level + shape) % 2 else {"k": value}
    return value


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """Small values, with one place in them that is about as deep or as wide as is allowed."""
    leaf = draw(st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)))
    if draw(st.booleans()):
        keys = draw(st.integers(0, 9))
        leaf = {f"{keys}{number}": draw(st.sampled_from([1, "}", {}, {"a": {}}, [2]])) for number in range(draw(MANY))}
    else:
        leaf = wrapped(leaf, draw(DEPTHS), draw(st.integers(0, 1)))
    beside = draw(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=4), max_size=4))
    return {"beside": beside, "there": leaf, draw(TEXTS): draw(TEXTS)}


def agrees_with_a_parser(document: Any, ascii_only: bool, spaces: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=1 if spaces else None).encode()
    expected = depth(document) > scan.MAX_DEPTH or widest(document) > scan.MAX_MEMBERS
    assert refused(text) == expected


@settings(max_examples=300, deadline=None)
@given(documents(), st.booleans(), st.booleans())
def test_what_it_refuses_is_what_a_parser_finds_too_deep_or_too_wide(document: Any, ascii_only: bool, spaces: bool):
    agrees_with_a_parser(document, ascii_only, spaces)


@pytest.mark.full
@settings(max_examples=20_000, deadline=None)
@given(documents(), st.booleans(), st.booleans())
def test_thousands_of_documents_agree(document: Any, ascii_only: bool, spaces: bool) -> None:
    agrees_with_a_parser(document, ascii_only, spaces)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(st.sampled_from('[]{}:,"\\ a'), max_size=400).map(str.encode))
def test_any_bytes_are_let_through_or_refused(text: bytes) -> None:
    refused(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[" * 33, "32 levels"),
        (b"[" * 1_000_000, "32 levels"),
        (b'{"a":' * 33, "32 levels"),
        (b'{"\\"":' * 33, "32 levels"),
        (b'{"\\\\":' * 33, "32 levels"),
        (b'["' + b"x" * 300_000 + b'",' + b"[" * 33, "32 levels"),
        (b"{" + b",".join(b'"%d":1' % key for key in range(65)) + b"}", "64 members"),
        (b"{" + b",".join(b'"%d":{"a":[{}]}' % key for key in range(65)) + b"}", "64 members"),
        (b"[" + b"1," * (4 << 20) + b"1]", "4194304 values"),
    ],
)
def test_bombs_are_refused_by_their_structure(text: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        scan.check(text)


def test_objects_are_counted_where_a_dialect_has_few_and_braces_in_texts_are_none() -> None:
    scan.check(b"[" + b",".join([b"{}"] * 512) + b"]", max_objects=512)
    scan.check(b'["' + b"{" * 1000 + b'"]', max_objects=512)
    with pytest.raises(InvalidArgument, match="512 objects"):
        scan.check(b"[" + b",".join([b"{}"] * 513) + b"]", max_objects=512)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 32 + b"]" * 32,
        b'{"a":"' + b"[" * 1000 + b'"}',
        b'{"a":"\\"' + b"[{:" * 1000 + b'\\\\"}',
        b"[" + b",".join([b"[1]"] * 5000) + b"]",
        b"[" + b",".join([b'{"a":1,"b":{"c":"}:"}}'] * 5000) + b"]",
        b"{" + b",".join(b'"%d":1' % key for key in range(64)) + b"}",
    ],
)
def test_what_is_wide_but_shallow_or_only_text_passes(text: bytes) -> None:
    scan.check(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"instances":[' + b"{}," * scan.MAX_OBJECTS + b"{}]}", "262144 objects"),
        (b'{"examples":[' + b'{"a":1},' * scan.MAX_OBJECTS + b"{}]}", "262144 objects"),
        (b"[" + b"[]," * scan.MAX_LISTS + b"[]]", "524288 lists"),
        (b"[" + b"[[1]]," * (scan.MAX_LISTS // 2) + b"[]]", "524288 lists"),
        (b"[" + b'"",' * scan.MAX_TEXTS + b'""]', "262144 strings"),
        (b"[" + b'":",' * scan.MAX_TEXTS + b'""]', "262144 strings"),
        (b"[" + b'"\\"",' * scan.MAX_TEXTS + b'""]', "262144 strings"),
    ],
)
def test_what_costs_many_times_its_size_is_counted(text: bytes, says: str) -> None:
    """The whole kind: what a parser makes of two or three bytes is sixty and more, or two hundred."""
    with pytest.raises(InvalidArgument, match=says):
        scan.check(text)
    scan.check(text, of_client=False)


@pytest.mark.parametrize(
    "text",
    [
        b'["' + b"[{" * scan.MAX_LISTS + b'"]',
        b"[" + b'{"a":1,"b":1,"c":"d"},' * (scan.MAX_OBJECTS // 4) + b"{}]",
        b"[" + b"[1]," * (scan.MAX_LISTS - 2) + b"[1]]",
        b"[" + b'"",' * (scan.MAX_TEXTS - 1) + b'""]',
    ],
)
def test_texts_and_names_are_no_lists_objects_or_strings(text: bytes) -> None:
    scan.check(text)
