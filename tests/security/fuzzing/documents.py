"""JSON from a `Draw`: many values of one spelling, in lists and objects of any form, with a last one that differs."""

from __future__ import annotations

from gateway.types import DATATYPES
from tests.security.fuzzing.fronts import SIGNATURE_NAMES
from tests.security.fuzzing.genome import Draw

NUMBERS = (
    b"1",
    b"0.5",
    b"-0.0",
    b"1e5",
    b"1E-300",
    b"0.1234567890123456",
    b"12345678901234567",
    b"18446744073709551615",
    b"3.4e38",
    b"1e400",
    b"1" * 40,
    b"0." + b"3" * 400,
)
TEXTS = (
    b'""',
    b'"a"',
    b'"QUJD"',
    rb'"\u0041"',
    rb'"\ud83d\ude00"',
    b'"\xc3\xa9"',
    b'"\xf0\x9f\x98\x80"',
    rb'"\\"',
    rb'"\""',
    b'"' + rb"\n" * 50 + b'"',
    b'"[[[{{{"',
)
OTHERS = (b"true", b"null", b"[]", b"{}", b'{"b64":""}', b'{"b64":"QUJD"}', b'{"a":1}', b"[[]]", b"NaN", b'{"x":1}')
OTHERS += (b'{"x":[1],"t":"a"}', b'{"a":"b","c":[1,2],"d":0.5}', b'{"x0":[1]}', b'{"x":1,"x":2}', b"[1]", b"[1,2]")
_ELEMENTS = (*NUMBERS, *TEXTS, *OTHERS)
_SPACES = (b"", b" ", b"\n\t ", b" " * 30)
_LAST = (None, None, None, None, b'"x"', b"1", b"null", b"{}", b"[[1]]", b"[", b"1.5", b"9" * 30)
_DATATYPES = (*DATATYPES, "?")
_MOST = 1 << 22


def values(draw: Draw, path: str, room: int) -> tuple[bytes, int]:
    """A list, and how many innermost values it has."""
    element = draw.pick(f"{path}.element", _ELEMENTS)
    space = draw.pick(f"{path}.space", _SPACES)
    separator = b"," + space
    width = draw.number(f"{path}.width", 1 << 16)
    if width:
        row = separator.join([element] * max(1, min(width, room // (len(element) + len(separator)) - 1)))
        for _ in range(draw.number(f"{path}.depth", 40, 1)):
            row = b"[" + row + b"]"
        inside = row.count(element) if width > 1 else 1
    else:
        row, inside = element, 1
    count = min(draw.number(f"{path}.count", _MOST), max(room - 2, 0) // (len(row) + len(separator)))
    rows = (row + separator) * count
    last = draw.pick(f"{path}.last", _LAST) if draw.seldom(f"{path}.odd") else None
    if last is not None:
        return b"[" + rows + last + b"]", inside * count + 1
    return b"[" + rows[: -len(separator)] + b"]", inside * count


def text(draw: Draw, path: str, room: int) -> bytes:
    unit = draw.pick(f"{path}.unit", (b"a", b"\xc3\xa9", rb"\u0000", rb"\"", b"\xf0\x9f\x98\x80", b"["))
    return b'"' + unit * (draw.number(f"{path}.size", max(room - 2, 0)) // len(unit)) + b'"'


def members(draw: Draw, path: str, room: int) -> bytes:
    """An object: different keys or one key again and again, each with the same value."""
    count = draw.number(f"{path}.count", 1 << 20)
    value = draw.pick(f"{path}.value", _ELEMENTS)
    one = len(value) + 12
    if draw.pick(f"{path}.same", (False, True)):
        return b"{" + (b'"a":' + value + b",") * min(count, room // one) + b'"b":1}'
    pairs = (b'"k%07d":%b' % (at, value) for at in range(min(count, room // one)))
    return b"{" + b",".join(pairs) + b"}"


def any_value(draw: Draw, path: str, room: int) -> bytes:
    match draw.pick(f"{path}.kind", ("values", "members", "text", "number", "deep")):
        case "values":
            return values(draw, f"{path}.values", room)[0]
        case "members":
            return members(draw, f"{path}.members", room)
        case "text":
            return text(draw, f"{path}.text", room)
        case "deep":
            depth = draw.number(f"{path}.depth", min(room // 2, 100_000))
            return b"[" * depth + b"]" * depth
        case _:
            return b"7" * draw.number(f"{path}.digits", max(room, 1), 1)


def infer(draw: Draw, path: str, room: int) -> bytes:
    """The Open Inference Protocol's request: equal tensors, outputs, parameters, and a member that nobody reads."""
    tensors = draw.number(f"{path}.tensors", 1 << 12)
    each = max((room - 256) // max(tensors, 1) - 8, 0)
    datatype = draw.pick(f"{path}.datatype", _DATATYPES)
    data, count = values(draw, f"{path}.data", each - 200)
    shape = draw.pick(f"{path}.shape", ([count], [count, 1], [1, count], [count, *[1] * 30], [1] * 31 + [count]))
    if draw.seldom(f"{path}.off"):
        shape = [count + 1]
    inside = b'"datatype":"%b","shape":%b,"data":%b' % (datatype.encode(), str(shape).encode(), data)
    found = b",".join(b'{"name":"x%d",%b}' % (at, inside) for at in range(min(tensors, room // (len(inside) + 20))))
    document = b'"inputs":[' + found + b"]"
    left = room - len(document) - 64
    outputs = draw.number(f"{path}.outputs", 1 << 12)
    document += b',"outputs":[' + b",".join(b'{"name":"%d"}' % at for at in range(min(outputs, left // 16))) + b"]"
    return _and_more(draw, path, document, room)


def predict(draw: Draw, path: str, room: int) -> bytes:
    """TensorFlow Serving's rows or columns."""
    name = draw.pick(f"{path}.signature", SIGNATURE_NAMES)
    head = b'"signature_name":"%b",' % name.encode()
    rows = draw.pick(f"{path}.rows", (b"instances", b"instances", b"inputs"))
    if draw.seldom(f"{path}.other"):
        value = any_value(draw, f"{path}.value", room - 128)
    elif rows == b"inputs" and draw.pick(f"{path}.named", (False, True)):
        value = b'{"x":%b,"t":["a"]}' % values(draw, f"{path}.data", room - 128)[0]
    else:
        value, _ = values(draw, f"{path}.data", room - 128)
    document = head + b'"%b":' % rows + value
    if draw.seldom(f"{path}.twice"):
        document = b'"%b":0,' % rows + document
    return _and_more(draw, path, document, room)


def examples(draw: Draw, path: str, room: int) -> bytes:
    """Classify's and Regress's: equal examples of a few features."""
    left = room - 256
    if draw.seldom(f"{path}.other"):
        found = any_value(draw, f"{path}.value", left)
    else:
        count = draw.number(f"{path}.count", 1 << 20)
        feature, _ = values(draw, f"{path}.feature", left // max(count, 1) - 16)
        pairs = draw.number(f"{path}.features", 64)
        bare = draw.pick(f"{path}.bare", (feature, draw.pick(f"{path}.scalar", (*NUMBERS, *TEXTS))))
        one = b"{" + b",".join(b'"f%d":%b' % (at, bare) for at in range(min(pairs, left // (len(bare) + 8)))) + b"},"
        found = b"[" + (one * min(count, left // len(one)))[:-1] + b"]"
    document = b'"signature_name":"examples","examples":' + found
    if draw.pick(f"{path}.shared", (False, True)):
        context = b'{"c":%b}' % values(draw, f"{path}.context", room - len(document) - 64)[0]
        document += b',"context":' + context
    return _and_more(draw, path, document, room)


def _and_more(draw: Draw, path: str, document: bytes, room: int) -> bytes:
    """The document's members with any other one before or behind, and spaces around all."""
    left = room - len(document) - 32
    if draw.pick(f"{path}.more", (False, False, True)) and left > 0:
        key = draw.pick(f"{path}.key", (b"parameters", b"id", b"context", b"z", b"signature_name", b"examples"))
        value = any_value(draw, f"{path}.any", left)
        first = draw.pick(f"{path}.first", (False, True))
        other = b'"%b":%b' % (key, value)
        document = other + b"," + document if first else document + b"," + other
    spaces = b" " * draw.number(f"{path}.spaces", max(room - len(document) - 2, 0))
    return spaces + b"{" + document + b"}"


def any_body(draw: Draw, path: str, room: int) -> bytes:
    return b'{"ready":%b}' % any_value(draw, path, room - 16)
