"""A client's JSON, looked over before a parser makes objects of it: how deep, how many members, how many values.

A parser takes memory and, where it recurses, stack as the document tells it to. Looking costs one pass over the bytes
for most documents, and memory of their brackets only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from gateway.codecs.raw import Buffer
from gateway.errors import InvalidArgument

#: Above the deepest tensor that is taken, with what surrounds it.
MAX_DEPTH = 32
#: Of one object: a request names a few tensors, a row of a model with many inputs as many as there are.
MAX_MEMBERS = 64
#: Each becomes a Python object of 32 bytes. More of them travel as binary tensors or over gRPC.
MAX_VALUES = 4 << 20

#: Lists in all: a row is one. An empty one takes three bytes of a body, and 64 of memory.
MAX_LISTS = 1 << 19
#: Objects in all, in a dialect whose rows may be objects. One of a single member takes 240 bytes of memory.
MAX_OBJECTS = 1 << 18
#: Strings that are no names of members. Those of two bytes take 60 of memory.
MAX_TEXTS = 1 << 18

_UNWANTED = bytes(set(range(256)) - set(b'[]{}:"'))
_QUOTE = ord('"')
_INNERMOST = re.compile(rb"\{:*\}")
_TOO_MANY = b":" * (MAX_MEMBERS + 1)
#: What each bracket adds to the depth, by its byte.
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_PIECE_BYTES = 1 << 18
_SHORT_BYTES = 4096


def check(text: Buffer, *, max_objects: int | None = None, of_client: bool = True) -> None:
    """Raises InvalidArgument for a document that is deeper, wider or longer than any request is.

    ``max_objects`` bounds the objects in all, in a dialect that has one a tensor. A server's answer, which is not
    ``of_client``, may hold more lists and strings. What is no JSON at all is left to the parser.
    """
    text = bytes(text)
    # A value takes two bytes at least.
    if len(text) > 2 * MAX_VALUES and text.count(b",") >= MAX_VALUES:
        raise InvalidArgument(
            f"the JSON holds more than {MAX_VALUES} values; send so many as binary tensors, or over gRPC"
        )
    wide = _more_than(MAX_MEMBERS, b":", text)
    many = max_objects is not None and _more_than(max_objects, b"{", text)
    # Each of them takes two bytes at least.
    long = of_client and len(text) > 2 * MAX_OBJECTS
    full = long and (text.count(b"[") > MAX_LISTS or text.count(b"{") > MAX_OBJECTS)
    wordy = long and text.count(b'"') > 2 * MAX_TEXTS
    if (
        wide
        or many
        or full
        or wordy
        or _more_than(MAX_DEPTH // 2, b"[", text)
        or _more_than(MAX_DEPTH // 2, b"{", text)
    ):
        plain = _without_escapes(text)
        tokens = b"".join(_structure(plain, keep=wide or many or full or wordy))
        if full:
            _check_containers(tokens)
        if wordy and plain.count(b'"') // 2 - tokens.count(b":") > MAX_TEXTS:
            raise InvalidArgument(
                f"the JSON holds more than {MAX_TEXTS} strings; send so many as binary tensors, or over gRPC"
            )
        objects = tokens.translate(None, b"[]")
        if many and max_objects is not None and objects.count(b"{") > max_objects:
            raise InvalidArgument(f"the JSON holds more than {max_objects} objects")
        if wide:
            _check_members(objects)


def _more_than(limit: int, mark: bytes, text: bytes) -> bool:
    """By ``find``, which passes a megabyte of digits in microseconds; ``count`` looks at each byte by itself."""
    if len(text) <= _SHORT_BYTES:
        return text.count(mark) > limit
    found = -1
    for _ in range(limit + 1):
        found = text.find(mark, found + 1)
        if found < 0:
            return False
    return True


def _without_escapes(text: bytes) -> bytes:
    """Without escaped backslashes and quotes, so that every quote begins or ends a string."""
    return text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text


def _structure(text: bytes, *, keep: bool) -> Iterator[bytes]:
    """Brackets, braces and colons outside of strings, if they are to be kept. Raises where it is too deep."""
    depth, inside = 0, False
    for start in range(0, len(text), _PIECE_BYTES):
        tokens = np.frombuffer(text[start : start + _PIECE_BYTES].translate(None, _UNWANTED), np.uint8)
        if not len(tokens):
            continue
        quotes = tokens == _QUOTE
        in_string = np.logical_xor.accumulate(quotes) ^ inside
        inside = bool(in_string[-1])
        tokens = tokens[~(in_string | quotes)]
        if not len(tokens):
            continue
        depths = np.cumsum(_STEPS[tokens], dtype=np.int32)
        if depth + int(depths.max()) > MAX_DEPTH:
            raise InvalidArgument(f"the JSON is nested more than {MAX_DEPTH} levels deep")
        depth += int(depths[-1])
        if keep:
            yield tokens.tobytes()


def _check_containers(tokens: bytes) -> None:
    for mark, most, what in ((b"[", MAX_LISTS, "lists"), (b"{", MAX_OBJECTS, "objects")):
        if tokens.count(mark) > most:
            raise InvalidArgument(
                f"the JSON holds more than {most} {what}; send so many rows as one binary tensor, over gRPC, or fewer "
                "at once"
            )


def _check_members(objects: bytes) -> None:
    """Takes away the innermost objects, level by level: what is left of an object then is one colon for each member."""
    for _ in range(MAX_DEPTH + 1):
        if _TOO_MANY in objects:
            raise InvalidArgument(f"an object of the JSON has more than {MAX_MEMBERS} members")
        outer = _INNERMOST.sub(b"", objects)
        if len(outer) == len(objects):
            return
        objects = outer
