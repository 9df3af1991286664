"""Protobuf messages from a `Draw`: any field of any message as often as fits, in every spelling the wire has.

`anything` knows no meaning: repeated fields, submessages that are merged, map entries of equal and of different keys,
packed fields in pieces and single values, overlong varints, unknown fields, wrong types, groups. It is appended to a
message that means something, where the last of two wins and repeated fields go on.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tests.security.fuzzing.genome import Draw, Genome

VARINT, FIXED64, BYTES, GROUP, FIXED32 = 0, 1, 2, 3, 5
_FIXED = {
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
    FieldDescriptor.TYPE_FLOAT: 4,
}
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_VALUES = (0, 1, 100, 128, (1 << 31) - 1, 1 << 50, (1 << 63) - 1, (1 << 64) - 1)
_DEPTH = 5
_MOST = 1 << 24
#: Texts that all differ are made one by one.
_MOST_DISTINCT = 40_000
#: How a field is written: the first is as it is declared.
_HOWS = ("plain", "plain", "plain", "distinct", "packed", "overlong", "wrong", "group", "unknown")
#: Fills texts: what UTF-8 takes for one, two and four bytes, what is none, and what errors write in six.
_FILLS = (b"a", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xff", b"\0", b"\\", b'"', b"'")


def varint(number: int, pad: int = 0) -> bytes:
    """``pad`` more bytes that say nothing, up to the ten that a parser reads."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    for _ in range(min(pad, 10 - len(found))):
        found[-1] |= 0x80
        found.append(0)
    return bytes(found)


def scalar(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def piece(number: int, data: bytes, pad: int = 0) -> bytes:
    """A field of bytes, a string, a message or packed values."""
    return varint(number << 3 | BYTES) + varint(len(data), pad) + data


def fill(draw: Draw, path: str, room: int) -> bytes:
    unit = draw.pick(f"{path}.fill", _FILLS)
    return unit * (draw.number(f"{path}.size", max(room, 0)) // len(unit))


def repeated(one: bytes, count: int, room: int) -> bytes:
    return one * min(count, max(room, 0) // max(len(one), 1))


def numbered(number: int, count: int, room: int, tail: bytes = b"", field: int = 1) -> bytes:
    """Map entries, or messages, whose texts all differ."""
    one = len(piece(number, piece(field, b"%06d" % 0) + tail))
    return b"".join(
        piece(number, piece(field, b"%06d" % at) + tail)
        for at in range(min(count, max(room, 0) // one, _MOST_DISTINCT))
    )


def anything(draw: Draw, path: str, descriptor: Descriptor, room: int, depth: int = 0) -> bytes:
    """Up to four groups of fields of the message, each repeated."""
    found: list[bytes] = []
    for group in range(draw.number(f"{path}.groups", 4)):
        made = _group(draw, f"{path}.{group}", descriptor, room - sum(map(len, found)), depth)
        found.append(made)
    return b"".join(found)


def saturated(descriptor: Descriptor, path: str, inner: Genome | None = None, depth: int = 0) -> Iterator[Genome]:
    """A genome for each field that the message or one inside has: as many of it as fit, small ones, all else empty."""
    for index, field in enumerate(descriptor.fields):
        at = f"{path}.0"
        for how in (0, 3) if field.message_type is not None or field.type in _TEXTS else (0, 4):
            yield {
                f"{path}.groups": 1,
                f"{at}.field": index,
                f"{at}.how": how,
                f"{at}.count": _MOST,
                f"{at}.value": 1,
                f"{at}.size": 0,
                f"{at}.inner.groups": 0,
            }
        if field.message_type is None:
            yield {f"{path}.groups": 1, f"{at}.field": index, f"{at}.how": 0, f"{at}.count": 1, f"{at}.size": _MOST}
        elif depth < _DEPTH - 2:
            for genome in saturated(field.message_type, f"{at}.inner", depth=depth + 1):
                yield {**genome, f"{path}.groups": 1, f"{at}.field": index, f"{at}.how": 0, f"{at}.count": 1}


def _group(draw: Draw, path: str, descriptor: Descriptor, room: int, depth: int) -> bytes:
    how = draw.pick(f"{path}.how", _HOWS)
    if not descriptor.fields or how == "unknown":
        one = piece(draw.number(f"{path}.number", 1 << 28, 1), fill(draw, path, room - 16))
        return repeated(one, draw.number(f"{path}.count", _MOST), room)
    field = draw.pick(f"{path}.field", list(descriptor.fields))
    count = draw.number(f"{path}.count", _MOST, 1)
    if how == "group":
        return repeated(varint(field.number << 3 | GROUP), count, room)
    if how == "distinct" and (field.message_type is not None or field.type in _TEXTS):
        return numbered(field.number, count, room)
    if how == "wrong":
        return repeated(scalar(field.number, draw.pick(f"{path}.value", _VALUES)), count, room)
    pad = 9 if how == "overlong" else 0
    if field.message_type is not None:
        # Many small ones, or a large one.
        inside = max(room // count - 12, 0)
        data = anything(draw, f"{path}.inner", field.message_type, inside, depth + 1) if depth < _DEPTH else b""
        return repeated(piece(field.number, data, pad), count, room)
    if field.type in _TEXTS:
        return repeated(piece(field.number, fill(draw, path, max(room // count - 12, 0)), pad), count, room)
    return _numbers(draw, path, field, count, room, pad, packed=how == "packed")


def _numbers(draw: Draw, path: str, field: FieldDescriptor, count: int, room: int, pad: int, *, packed: bool) -> bytes:
    width = _FIXED.get(field.type)
    value = draw.pick(f"{path}.value", _VALUES)
    one = varint(value, pad) if width is None else (value & 0xFF).to_bytes(width, "little")
    if not packed:
        kind = VARINT if width is None else FIXED64 if width == 8 else FIXED32
        return repeated(varint(field.number << 3 | kind) + one, count, room)
    pieces = draw.number(f"{path}.pieces", 1 << 16, 1)
    data = repeated(one, count // pieces, room // pieces - 12)
    return repeated(piece(field.number, data), pieces, room)
