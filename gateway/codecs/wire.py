"""A client's protobuf message, looked over before a parser makes objects of it: how many messages, strings and values.

A parser takes about a hundred bytes for each message inside, however empty: 16 MiB of them are 800 MiB. Looking costs a
step for each field that is there, and one for all values of a packed field; it ends where there are too many.

Source: protobuf's encoding (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.codecs import limits
from gateway.errors import InvalidArgument, ResourceExhausted

#: Shorter messages can hold nothing that is worth a look: 16,000 empty messages take 2 MiB, and 5 ms.
MIN_BYTES = 32 << 10
#: Messages inside a message, map entries among them. The largest request that is let through has about a thousand.
MAX_MESSAGES = 4096
#: Fields in all that are strings, or single values. A number of more than two bytes counts as further fields.
MAX_FIELDS = limits.MAX_STRINGS + MAX_MESSAGES
#: Values of packed integers: a byte on the wire, and eight in memory, twice.
MAX_INTEGERS = 2 << 20
#: Values of packed booleans, which the parser reads one by one too: as many as a tensor's elements may be by default.
MAX_BOOLEANS = 4 << 20
#: One text: a name, a version, an id, a parameter; strings of tensors are bytes. Errors escape texts and quote them.
MAX_TEXT_BYTES = 16 << 10
#: A message that brings a name and a few flags, and no tensors.
MAX_NAMING_BYTES = 64 << 10

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GROUPS = (3, 4)
_PIECE_BYTES = 1 << 18
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_INTEGERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT32,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_ENUM,
}


class Checked:
    """A message class whose `FromString` looks first. Raises InvalidArgument for what is too much.

    ``max_bytes`` bounds the whole message. Raises ResourceExhausted for a longer one, as gRPC itself does.
    """

    def __init__(self, message: Any, *, max_bytes: int | None = None) -> None:
        self._message = message
        self._max_bytes = max_bytes
        self._plan = _planned(message.DESCRIPTOR)

    def FromString(self, data: bytes) -> Any:  # noqa: N802 - protobuf's name
        if self._max_bytes is not None and len(data) > self._max_bytes:
            raise ResourceExhausted(f"a message of {len(data)} bytes; this call takes up to {self._max_bytes}")
        if len(data) >= MIN_BYTES:
            _Look(data).at(self._plan, 0, len(data))
        return self._message.FromString(data)


@dataclass(slots=True)
class _Plan:
    """What lies in the fields of a message, by their numbers: other messages, packed integers, booleans, or texts."""

    name: str
    messages: dict[int, _Plan] = field(default_factory=dict)
    integers: dict[int, str] = field(default_factory=dict)
    booleans: dict[int, str] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)


def _planned(descriptor: Descriptor, known: dict[str, _Plan] | None = None) -> _Plan:
    known = {} if known is None else known
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    plan = known[descriptor.full_name] = _Plan(descriptor.name)
    for entry in descriptor.fields:
        if entry.message_type is not None:
            plan.messages[entry.number] = _planned(entry.message_type, known)
        elif entry.type in _INTEGERS:
            plan.integers[entry.number] = entry.name
        elif entry.type == FieldDescriptor.TYPE_BOOL:
            plan.booleans[entry.number] = entry.name
        elif entry.type == FieldDescriptor.TYPE_STRING:
            plan.texts[entry.number] = entry.name
    return plan


class _Look:
    """One look at one message. What is no protobuf is left to the parser, which says so."""

    __slots__ = ("_booleans", "_data", "_fields", "_integers", "_messages")

    def __init__(self, data: bytes) -> None:
        self._booleans = 0
        self._data = data
        self._fields = 0
        self._integers = 0
        self._messages = 0

    def at(self, plan: _Plan, start: int, end: int) -> bool:
        """Whether the parser would come this far."""
        data, at, messages, integers = self._data, start, plan.messages, plan.integers
        left = MAX_FIELDS - self._fields
        while at < end:
            left -= 1
            if left < 0:
                raise _too_many(MAX_FIELDS, "fields", plan)
            tag = data[at]
            at += 1
            if tag > 0x7F:
                begin = at
                tag, at = _number(data, at - 1, end)
                left -= (at - begin + 1) >> 1
            kind = tag & 7
            if kind == _BYTES:
                if at >= end:
                    return False
                size = data[at]
                at += 1
                if size > 0x7F:
                    # Mostly two bytes. A call for each takes as long as all else here.
                    if at < end and data[at] < 0x80:
                        size = size & 0x7F | data[at] << 7
                        at += 1
                    else:
                        begin = at
                        size, at = _number(data, at - 1, end)
                        left -= (at - begin) >> 1
                if size > end - at or size < 0:
                    return False
                number = tag >> 3
                if number in messages:
                    self._fields = MAX_FIELDS - left
                    if not self._message(messages[number], at, at + size):
                        return False
                    left = MAX_FIELDS - self._fields
                elif number in integers:
                    self._packed(integers[number], at, at + size, plan)
                elif number in plan.booleans:
                    self._packed_booleans(plan.booleans[number], size, plan)
                elif size > MAX_TEXT_BYTES and number in plan.texts:
                    raise InvalidArgument(
                        f"{plan.texts[number]!r} ({plan.name}) has {size} bytes; at most {MAX_TEXT_BYTES} are taken"
                    )
                at += size
            elif kind == _VARINT:
                begin = at + 1
                at = _after_number(data, at, end)
                left -= (at - begin) >> 1
            elif kind in _WIDTHS:
                at += _WIDTHS[kind]
            elif kind in _GROUPS and tag > 0:
                raise InvalidArgument(f"field {tag >> 3} in {plan.name} is a group, which no message of this API has")
            else:
                return False
            if at > end or tag < 0:
                return False
        self._fields = MAX_FIELDS - left
        return True

    def _message(self, plan: _Plan, start: int, end: int) -> bool:
        self._messages += 1
        if self._messages > MAX_MESSAGES:
            raise _too_many(MAX_MESSAGES, "messages inside", plan)
        return self.at(plan, start, end)

    def _packed(self, name: str, start: int, end: int, plan: _Plan) -> None:
        """Each value's last byte, and no other, is below 0x80."""
        for at in range(start, end, _PIECE_BYTES):
            piece = np.frombuffer(self._data, np.uint8, min(_PIECE_BYTES, end - at), at)
            self._integers += int(np.count_nonzero(piece < 0x80))
        if self._integers > MAX_INTEGERS:
            raise InvalidArgument(
                f"the message holds more than {MAX_INTEGERS} integers as values of {name!r} ({plan.name}); send them "
                "as bytes: raw_input_contents of the Open Inference Protocol, tensor_content of TensorFlow Serving"
            )

    def _packed_booleans(self, name: str, size: int, plan: _Plan) -> None:
        """A byte each, as every client writes them."""
        self._booleans += size
        if self._booleans > MAX_BOOLEANS:
            raise InvalidArgument(
                f"the message holds more than {MAX_BOOLEANS} booleans as values of {name!r} ({plan.name}); send them "
                "as bytes: raw_input_contents of the Open Inference Protocol, tensor_content of TensorFlow Serving"
            )


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A varint, and where it ends: beyond ``end`` where it does not."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    return -1, end + 1


def _after_number(data: bytes, at: int, end: int) -> int:
    """Where a varint ends, whose value does not count. Beyond ``end`` where it is none."""
    last = min(at + 10, end)
    while at < last:
        if data[at] < 0x80:
            return at + 1
        at += 1
    return end + 1


def _too_many(most: int, what: str, plan: _Plan) -> InvalidArgument:
    return InvalidArgument(f"the message holds more than {most} {what} (the last of them in {plan.name}); send fewer")
