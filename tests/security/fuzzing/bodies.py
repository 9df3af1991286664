"""Bodies of REST that are no JSON, or not all of it: binary tensors, ``.npy``, multipart, forms, bytes."""

from __future__ import annotations

from collections.abc import Callable

from gateway.codecs.limits import MAX_STRINGS
from tests.security.fuzzing import documents
from tests.security.fuzzing.genome import Draw
from tests.security.fuzzing.protobuf import fill, repeated

BOUNDARY = "b" * 10
#: Of a JSON part that is decoded where it comes (`gateway.rest.aside.Aside`).
INLINE = (128 << 10) - 1
_BYTES = (b"\0", b"\x01", b"\x3f", b"a", b"\x93", b"7", b" ", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xff")
_DESCRIPTIONS = (b"<f4", b"<f8", b"|i1", b"|u1", b"<i8", b"|b1", b">f4", b"<f2", b"|O", b"<M8[s]", b"|V3")
_WIDTHS = (4, 8, 1, 1, 8, 1, 4, 2, 8, 8, 3)
_ORDERS = (b"False", b"True")


def binary(draw: Draw, path: str, room: int) -> tuple[bytes, int]:
    """JSON with binary tensors behind it, and the JSON part's length."""
    tensors = draw.number(f"{path}.tensors", 300, 1)
    datatype = draw.pick(f"{path}.datatype", ("FP32", "BYTES", "INT8", "BOOL", "FP64", "FP16"))
    each = max((room - 128 * tensors - 256) // tensors, 0)
    if datatype == "BYTES":
        count = draw.number(f"{path}.count", 1 << 22)
        count = min(count, MAX_STRINGS) if draw.pick(f"{path}.within", (True, False)) else count
        item = fill(draw, f"{path}.item", max(each // max(count, 1) - 4, 0))
        blob = repeated(len(item).to_bytes(4, "little") + item, count, each)
        count = len(blob) // (len(item) + 4)
    else:
        width = {"FP32": 4, "FP64": 8, "FP16": 2}.get(datatype, 1)
        count = min(draw.number(f"{path}.count", 1 << 24), each // width)
        blob = draw.pick(f"{path}.byte", (b"\0", b"\1")) * (count * width)
    entries = ",".join(
        f'{{"name":"x{at}","datatype":"{datatype}","shape":[{count}],"parameters":{{"binary_data_size":{len(blob)}}}}}'
        for at in range(tensors)
    )
    more = documents.any_value(draw, f"{path}.more", 4096) if draw.seldom(f"{path}.other") else b"0"
    document = b'{"inputs":[%b],"z":%b}' % (entries.encode(), more)
    return document + blob * tensors, len(document)


def npy(draw: Draw, path: str, room: int) -> bytes:
    """An ``.npy`` file of any type, or a header that never ends."""
    at = draw.number(f"{path}.dtype", len(_DESCRIPTIONS) - 1)
    count = min(draw.number(f"{path}.count", 1 << 24), max(room - 512, 0) // _WIDTHS[at])
    shape = draw.pick(f"{path}.shape", (b"(%d,)", b"(%d,1)", b"(1,%d)", b"(%d,0)")) % count
    head = b"{'descr': '%b', 'fortran_order': %b, 'shape': %b}" % (
        _DESCRIPTIONS[at],
        draw.pick(f"{path}.order", _ORDERS),
        shape,
    )
    if draw.seldom(f"{path}.odd"):
        unit = draw.pick(f"{path}.unit", (b"(", b"[", b"{1:", b"-", b"1,", b"'a'", b"9", b"\\", b" ", b"1+"))
        head = unit * (draw.number(f"{path}.long", min(20_000, room)) // len(unit))
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(4, "little")[:2] + head + bytes(count * _WIDTHS[at])


def plain(draw: Draw, path: str, room: int) -> bytes:
    """One byte, or character, again and again, behind another beginning."""
    begin = draw.pick(f"{path}.begin", (b"", b"", b"[", b'"', b"\0", b" ", b"{", b"\xff"))
    unit = draw.pick(f"{path}.unit", _BYTES)
    return begin + unit * (draw.number(f"{path}.size", max(room - 8, 0)) // len(unit))


def document(draw: Draw, path: str, room: int) -> bytes:
    """A JSON body of TorchServe's clients: bare, by name, in an envelope."""
    value = documents.any_value(draw, f"{path}.value", room - 64)
    wrapped = draw.pick(f"{path}.envelope", (b"%b", b"%b", b'{"x":%b}', b'{"instances":%b}', b'{"inputs":%b}', b""))
    return wrapped % value if wrapped else documents.infer(draw, f"{path}.v2", room)


_PARTS: tuple[Callable[[Draw, str, int], bytes], ...] = (document, npy, plain)


def part(draw: Draw, path: str, room: int) -> bytes:
    kind = draw.number(f"{path}.kind", len(_PARTS) - 1)
    return _PARTS[kind](draw, f"{path}.{kind}", room)


def multipart(draw: Draw, path: str, room: int) -> bytes:
    count = draw.number(f"{path}.parts", 300, 1)
    each = max(room // count - 64, 0)
    name = draw.pick(f"{path}.name", (b"x", b"data", b'a\\"b'))
    unit = draw.pick(f"{path}.header", (b":\r\n", b"a:b\r\n", b";a=b", b';a="\\"', b"; ", b";a", b"\xc3\xa9", b" "))
    headers = unit * (draw.number(f"{path}.headers", min(9000, max(each, 0))) // len(unit))
    head = b'\r\nContent-Disposition: form-data; name="%b%d"%b\r\n'
    kinds = (b"", b"Content-Type: application/json\r\n", b"Content-Type: text/plain\r\n")
    kinds += (b"Content-Type: application/x-npy\r\n", b"Content-Type: application/octet-stream\r\n")
    kind = draw.pick(f"{path}.type", kinds)
    data = part(draw, f"{path}.part", max(each - len(headers) - 128, 0))
    mark = b"--" + BOUNDARY.encode()
    near = (b"\r\n" + mark[:-1]) * draw.number(f"{path}.near", max(each - len(headers) - len(data), 0) // 16)
    single = name if count == 1 else name + b"%d"
    pieces = []
    for at in range(count):
        own = single if count == 1 else single % at
        pieces.append(
            mark + (head.replace(b"%b%d", own).replace(b"%b", headers)) + kind + b"\r\n" + data + near + b"\r\n"
        )
    return b"".join(pieces) + mark + b"--"


def form(draw: Draw, path: str, room: int) -> bytes:
    unit = draw.pick(f"{path}.unit", (b"a=b&", b"&", b"x=%41&", b"x=1;", b"%", b"x=%c3%a9&", b"+", b"data=[1]&"))
    count = draw.number(f"{path}.count", 1 << 22)
    return draw.pick(f"{path}.begin", (b"", b"x=", b"data=")) + repeated(unit, count, room - 8)
