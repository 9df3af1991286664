"""JSON as TensorFlow Serving reads it: RapidJSON, with NaN and Infinity, stopping at the value's end (json_tensor.cc).

What differs from Python's own parsers: ``NaN``, ``Infinity`` and ``Inf`` are numbers, 1e400 is an error, text after the
closing bracket is ignored, a byte order mark is skipped, bytes need not be UTF-8, and of equal keys the first counts.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

import rapidjson

from serving.embedded.errors import ServingError, invalid_argument

#: Bytes that are no UTF-8 stand here while they are text: where no character ever is.
_FIRST_STRAY = 0x10FF00
_TO_STRAY = {0xDC00 + byte: _FIRST_STRAY + byte for byte in range(0x80, 0x100)}
_FROM_STRAY = {stray: surrogate for surrogate, stray in _TO_STRAY.items()}
#: Ours: as Python's objects a body takes up to thirty times its size.
MAX_VALUES = 1 << 22
_AT_OFFSET = re.compile(r"Parse error at offset (\d+): (.*)", re.DOTALL)
_SURPLUS = "The document root must not be followed by other values."


class _Decoder(rapidjson.Decoder):  # type: ignore[misc]
    """Members come as pairs: a mapping of our own that drops some breaks the parser's reference counts."""

    def start_object(self) -> list[tuple[str, Any]]:
        return []

    def end_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))


_decode = _Decoder()


def parse(body: bytes) -> Any:
    """Numbers are ints where they were written so, else floats. Raises ServingError (INVALID_ARGUMENT).

    Brackets deeper than about a thousand are refused, and so are more than MAX_VALUES values (commas, which are cheaper
    to count); the real server has no limit, and can be crashed by them.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    if body.count(b",") > MAX_VALUES:
        raise invalid_argument(f"JSON Parse error: more than {MAX_VALUES} values; send fewer rows at once")
    mark = len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0
    return _parse(body[mark:], mark, stop_at_end=True)


def as_bytes(text: str) -> bytes:
    """The bytes that a string of `parse` was read from."""
    if text and max(text) >= chr(_FIRST_STRAY):
        text = text.translate(_FROM_STRAY)
    return text.encode("utf-8", "surrogateescape")


def _parse(body: bytes, mark: int, *, stop_at_end: bool) -> Any:
    try:
        return _decode(_text(body))
    except RecursionError as error:
        raise invalid_argument("JSON Parse error: too many nested brackets") from error
    except ValueError as error:
        matched = _AT_OFFSET.match(str(error))
        if matched is None:
            raise invalid_argument(f"JSON Parse error: {error}") from error
        offset, text = int(matched[1]), matched[2]
        if stop_at_end and text == _SURPLUS:
            return _parse(body[:offset], mark, stop_at_end=False)
        raise _error(text, offset + mark) from error


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("utf-8", "surrogateescape").translate(_TO_STRAY)


def _error(text: str, offset: int) -> ServingError:
    return invalid_argument(f"JSON Parse error: {text} at offset: {offset}")
