"""One input's value as TorchServe's clients send it: JSON, ``.npy``, raw bytes, or text for BYTES."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np
import orjson

from gateway.codecs import fitting, large, npy, raw, scan
from gateway.codecs.raw import Buffer
from gateway.errors import InvalidArgument
from gateway.types import DATATYPES, Tensor, TensorSpec

JSON = "application/json"
OCTETS = "application/octet-stream"
NPY = "application/x-npy"

_BEGINS_JSON = (b"[", b"{", b'"')
_SPACES = re.compile(rb"[ \t\r\n]*")
_LOOKED_AT_BYTES = 4096
_CONTROLS = bytes(byte for byte in (*range(32), 127) if byte not in b"\t\n\r")


def media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    return media == JSON or media.endswith("+json")


def may_be_parsed(data: Buffer, media: str) -> bool:
    """Whether a parser may have work with a part, or a body, that says it is of type ``media``: bytes are not read.

    It must be True for whatever is parsed, however it begins: a large body is then decoded where it holds nobody up.
    """
    if media in (OCTETS, NPY):
        return False
    if is_json(media) or media.startswith("text/") or _first(data) in _BEGINS_JSON:
        return True
    return not _holds_controls(data)


def of_part(spec: TensorSpec, data: Buffer, media: str) -> Tensor:
    """One input's value. curl calls a file octet-stream whatever is in it, so that numbers are looked at."""
    if media == NPY or (spec.datatype != "BYTES" and bytes(data[:6]) == npy.MAGIC):
        return npy.decode(spec.name, spec.datatype, data)
    if spec.datatype == "BYTES" and not is_json(media):
        found = parsed_text(data) if not media else None
        if isinstance(found, str | list):
            return fitting.of_json(spec, found, may_hold_booleans=True)
        return of_raw_bytes(spec, data)
    if is_json(media) or media.startswith("text/") or looks_like_text(data):
        booleans = b"true" in bytes(data) or b"false" in bytes(data)
        return fitting.of_json(spec, parse(data, f"input {spec.name!r}"), may_hold_booleans=booleans)
    return of_raw_bytes(spec, data)


def of_raw_bytes(spec: TensorSpec, data: Buffer) -> Tensor:
    """A tensor of bytes alone: its one free dimension follows from their number. BYTES are one element, as it is."""
    if spec.datatype == "BYTES":
        element = np.empty((), np.object_)
        element[()] = bytes(data)
        return Tensor(spec.name, spec.datatype, element)
    if spec.datatype not in DATATYPES:
        raise InvalidArgument(f"input {spec.name!r} has the datatype {spec.datatype}, which is not served")
    declared = spec.told_shape
    if declared.count(-1) > 1:
        raise InvalidArgument(
            f"input {spec.name!r} has several free dimensions in {list(declared)}: raw bytes do not tell its shape; "
            "send JSON or .npy"
        )
    step = prod(size for size in declared if size != -1) * DATATYPES[spec.datatype].itemsize
    if -1 in declared and (not step or len(data) % step):
        raise InvalidArgument(
            f"input {spec.name!r}: {len(data)} raw bytes are no whole number of {step} bytes, which one step of "
            f"{list(declared)} of {spec.datatype} takes; JSON is sent as {JSON}"
        )
    count = len(data) // step if step else 0
    return raw.decode(spec.name, spec.datatype, tuple(count if size == -1 else size for size in declared), data)


def parse(data: Buffer, what: str) -> Any:
    scan.check(data)
    try:
        return large.loads(data)
    except orjson.JSONDecodeError as error:
        text = bytes(data)
        hint = "; NaN and Infinity are not JSON: send raw bytes" if b"NaN" in text or b"Infinity" in text else ""
        raise InvalidArgument(f"{what} is not valid JSON: {error}{hint}") from None


def parsed_text(data: Buffer) -> Any:
    """The JSON list, object or string that untyped text for BYTES may be; None for any other text."""
    if _first(data) not in _BEGINS_JSON:
        return None
    scan.check(data)
    try:
        return large.loads(data)
    except orjson.JSONDecodeError:
        return None


def looks_like_text(data: Buffer) -> bool:
    """True for UTF-8 without control characters: then it has to be JSON, and raw numbers hardly ever look so."""
    if _holds_controls(data):
        return False
    text = bytes(data)
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return text.translate(None, _CONTROLS) == text


def _first(data: Buffer) -> bytes:
    """The first byte that is no space, however many of them come first."""
    match = _SPACES.match(data)
    return bytes(data[match.end() : match.end() + 1]) if match else b""


def _holds_controls(data: Buffer) -> bool:
    """Of the beginning, where numbers mostly have some: looking at all of a picture takes 20 ms."""
    begin = bytes(data[:_LOOKED_AT_BYTES])
    return begin.translate(None, _CONTROLS) != begin
