"""Messages of the gRPC fronts that mean something, from a `Draw`: tensors that fit their shapes, examples, tasks."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor

from gateway.codecs.limits import MAX_EXAMPLES, MAX_STRINGS
from gateway.protos import tfserving_pb2 as tf
from gateway.types import DATATYPES
from tests.security.fuzzing import bodies
from tests.security.fuzzing.fronts import MODEL, SIGNATURE_NAMES
from tests.security.fuzzing.genome import Draw
from tests.security.fuzzing.protobuf import anything, fill, numbered, piece, repeated, scalar, varint

_NAMES = (b"x", b"t", b"inputs")
_DATATYPES = (*DATATYPES, "?")
#: Datatype -> the number of its field in InferTensorContents, and whether a value is a varint there.
_CONTENTS = {
    "BOOL": (1, 1),
    **dict.fromkeys(("INT8", "INT16", "INT32"), (2, 0)),
    "INT64": (3, 0),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), (4, 0)),
    "UINT64": (5, 0),
    "FP32": (6, 4),
    "FP64": (7, 8),
}
#: DataType -> the field of TensorProto that holds its values, and how wide one is; 0 is a varint.
_VALUES = {
    tf.DT_FLOAT: (5, 4),
    tf.DT_DOUBLE: (6, 8),
    tf.DT_INT32: (7, 0),
    tf.DT_UINT8: (7, 0),
    tf.DT_INT8: (7, 0),
    tf.DT_INT16: (7, 0),
    tf.DT_STRING: (8, -1),
    tf.DT_INT64: (10, 0),
    tf.DT_BOOL: (11, 1),
    tf.DT_HALF: (13, 0),
    tf.DT_BFLOAT16: (13, 0),
    tf.DT_UINT32: (16, 0),
    tf.DT_UINT64: (17, 0),
    tf.DT_COMPLEX64: (9, 4),
}
_DTYPES = tuple(_VALUES)
_WIDTHS = {"FP64": 8, "INT64": 8, "UINT64": 8, "FP32": 4, "INT32": 4, "UINT32": 4, "FP16": 2, "BF16": 2}
_WIDTHS |= {"INT16": 2, "UINT16": 2}
_METHODS = (b"tensorflow/serving/classify", b"tensorflow/serving/regress")


def infer(draw: Draw, path: str, room: int) -> bytes:
    """ModelInferRequest: equal tensors, raw or typed, with outputs and parameters."""
    most = draw.number(f"{path}.tensors", 300)
    raw = draw.pick(f"{path}.raw", (False, True))
    each = max((room - 4096) // max(most, 1) - 64, 0)
    blobs, tensors = [], []
    for index in range(most):
        tensor, blob = _tensor(draw, f"{path}.tensor", index, each, raw=raw)
        tensors.append(piece(5, tensor))
        blobs.append(piece(7, blob) if raw else b"")
    found = piece(1, MODEL.encode()) + b"".join(tensors) + b"".join(blobs)
    outputs = numbered(6, draw.number(f"{path}.outputs", 1 << 16), (room - len(found)) // 2)
    found += outputs + numbered(
        4, draw.number(f"{path}.parameters", 1 << 12), room - len(found), _parameter(draw, path)
    )
    if draw.seldom(f"{path}.base64"):
        found += piece(4, piece(1, b"content_encoding") + piece(2, piece(3, b"base64")))
    return found


def predict(draw: Draw, path: str, room: int) -> bytes:
    count = draw.number(f"{path}.tensors", 300)
    each = max((room - 4096) // max(count, 1) - 32, 0)
    name = draw.pick(f"{path}.name", _NAMES)
    entries = []
    for index in range(count):
        key = name if count == 1 else b"x%d" % index
        entries.append(piece(2, piece(1, key) + piece(2, _proto(draw, f"{path}.tensor", each))))
    found = _spec(draw, path) + b"".join(entries)
    count = draw.number(f"{path}.filters", 1 << 16)
    same = repeated(piece(3, b"y"), count, room - len(found))
    return found + draw.pick(f"{path}.filter", (same, b"".join(piece(3, b"%d" % n) for n in range(min(count, 1000)))))


def examples(draw: Draw, path: str, room: int) -> bytes:
    """Classify and Regress: input is field 2."""
    return _spec(draw, path) + piece(2, _input(draw, path, max(room - 4096, 0)))


def multi(draw: Draw, path: str, room: int) -> bytes:
    """MultiInference: tasks of different signatures, or of one."""
    count = draw.number(f"{path}.tasks", 1 << 16)
    method = piece(2, draw.pick(f"{path}.method", _METHODS))
    if draw.pick(f"{path}.distinct", (False, True)):
        model = piece(1, MODEL.encode())
        tasks = b"".join(
            piece(1, piece(1, model + piece(3, b"%06d" % at)) + method) for at in range(min(count, room // 128))
        )
    else:
        tasks = repeated(piece(1, _spec(draw, path) + method), count, room // 2)
    return tasks + piece(2, _input(draw, path, max(room - len(tasks) - 4096, 0)))


def metadata(draw: Draw, path: str, room: int) -> bytes:
    found = _spec(draw, path)
    return found + repeated(piece(2, b"signature_def"), draw.number(f"{path}.fields", 1 << 20), room - len(found))


def status(draw: Draw, path: str, room: int) -> bytes:
    return _spec(draw, path)


def predictions(draw: Draw, path: str, room: int) -> bytes:
    """PredictionsRequest: parts that are bodies."""
    count = draw.number(f"{path}.parts", 300)
    each = max((room - 4096) // max(count, 1) - 64, 0)
    part = bodies.part(draw, f"{path}.part", each)
    entries = [
        piece(3, piece(1, b"x%d" % index if count > 1 else draw.pick(f"{path}.name", (b"x", b"data"))) + piece(2, part))
        for index in range(count)
    ]
    return piece(1, MODEL.encode()) + b"".join(entries) + piece(4, fill(draw, f"{path}.sequence", 4096))


def named(draw: Draw, path: str, room: int) -> bytes:
    """A message whose first field is a model's name, and its second a version."""
    found = piece(1, draw.pick(f"{path}.model", (MODEL.encode(), b""))) + piece(
        1, fill(draw, f"{path}.name", room - 64)
    )
    if draw.pick(f"{path}.known", (True, False)):
        found = piece(1, MODEL.encode())
    return found + piece(2, fill(draw, f"{path}.version", room - len(found)))


def asked(draw: Draw, path: str, room: int) -> bytes:
    """A question of reflection: host, and one of its five kinds."""
    host = piece(1, fill(draw, f"{path}.host", room // 2))
    return host + piece(draw.pick(f"{path}.kind", (3, 4, 6, 7)), fill(draw, f"{path}.what", room - len(host) - 32))


def nothing(draw: Draw, path: str, room: int) -> bytes:
    return b""


def odd(draw: Draw, descriptor: Descriptor, data: bytes, room: int) -> bytes:
    """The message with anything else after it, or in its place."""
    more = anything(draw, "odd", descriptor, room - len(data))
    return more if draw.seldom("alone") else data + more


def _spec(draw: Draw, path: str) -> bytes:
    """ModelSpec as field 1, which all of these messages have."""
    name = draw.pick(f"{path}.signature", SIGNATURE_NAMES).encode()
    return piece(1, piece(1, MODEL.encode()) + piece(3, name))


def _tensor(draw: Draw, path: str, index: int, room: int, *, raw: bool) -> tuple[bytes, bytes]:
    """InferInputTensor, and its raw contents."""
    datatype = draw.pick(f"{path}.datatype", _DATATYPES)
    count = draw.number(f"{path}.count", 1 << 23)
    contents = blob = b""
    if datatype == "BYTES":
        count = min(count, MAX_STRINGS) if draw.pick(f"{path}.within", (True, False)) else count
        item = fill(draw, f"{path}.item", max(room // max(count, 1) - 8, 0))
        one = len(item).to_bytes(4, "little") + item if raw else piece(8, item)
        made = repeated(one, count, room)
        count = len(made) // len(one)
        contents, blob = (b"", made) if raw else (piece(5, made), b"")
    elif raw:
        width = _WIDTHS.get(datatype, 1)
        count = min(count, room // width)
        blob = draw.pick(f"{path}.byte", (b"\0", b"\1", b"\xff")) * (count * width)
    elif datatype in _CONTENTS:
        number, width = _CONTENTS[datatype]
        count, packed = _packed(draw, path, number, width, count, room)
        contents = b"".join(piece(5, one) for one in packed)
    found = piece(1, b"x" if index == 0 else b"x%d" % index) + piece(2, datatype.encode())
    found += piece(3, b"".join(varint(size) for size in _shape(draw, path, count)))
    more = draw.number(f"{path}.parameters", 1 << 12)
    return found + numbered(4, more, room // 8, _parameter(draw, path)) + contents, blob


def _proto(draw: Draw, path: str, room: int) -> bytes:
    """TensorProto: its values in their own field, or as tensor_content."""
    dtype = draw.pick(f"{path}.dtype", _DTYPES)
    number, width = _VALUES[dtype]
    count = draw.number(f"{path}.count", 1 << 23)
    if width < 0:
        count = min(count, MAX_STRINGS) if draw.pick(f"{path}.within", (True, False)) else count
        item = fill(draw, f"{path}.item", max(room // max(count, 1) - 8, 0))
        if draw.pick(f"{path}.content", (False, True)):
            count = min(count, room // (len(item) + 5))
            values = piece(4, varint(len(item)) * count + item * count)
        else:
            values = repeated(piece(number, item), count, room)
            count = len(values) // len(piece(number, item))
    elif draw.pick(f"{path}.content", (False, True)):
        size = width or 4
        count = min(count, room // size)
        values = piece(4, bytes(count * size))
    else:
        count, packed = _packed(draw, path, number, width, count, room)
        values = b"".join(packed)
    # The last value fills what is left of the shape.
    count += draw.number(f"{path}.beyond", 1 << 24) if draw.seldom(f"{path}.fewer") else 0
    sizes = b"".join(piece(2, scalar(1, size)) for size in _shape(draw, path, count))
    return scalar(1, dtype) + piece(2, sizes) + values


def _packed(draw: Draw, path: str, number: int, width: int, count: int, room: int) -> tuple[int, list[bytes]]:
    """How many values there are, and the fields that hold them: packed, in pieces, or each by itself."""
    value = draw.pick(f"{path}.value", (0, 1, 127, 128, 1 << 14, 1 << 30, 1 << 50, (1 << 64) - 1))
    one = varint(value) if not width else (value & 0xFF).to_bytes(width, "little") if width > 1 else b"\1"
    if draw.seldom(f"{path}.single"):
        kind = 0 if width < 4 else 1 if width == 8 else 5
        count = min(count, room // (len(one) + 2))
        return count, [(varint(number << 3 | kind) + one) * count]
    pieces = draw.number(f"{path}.pieces", 4096, 1)
    each = min(count, room // len(one)) // pieces
    return each * pieces, [piece(number, one * each)] * pieces


def _shape(draw: Draw, path: str, count: int) -> list[int]:
    """The sizes whose product ``count`` is, in one of many spellings, or a wrong one."""
    ones = [1] * draw.number(f"{path}.ones", 31)
    if draw.seldom(f"{path}.off"):
        return [count + 1, *ones]
    return draw.pick(f"{path}.shape", ([count, *ones], [*ones, count], [count], [count, 1], [2, count // 2]))


def _parameter(draw: Draw, path: str) -> bytes:
    """An InferParameter as a map entry's value."""
    return piece(2, draw.pick(f"{path}.parameter", (scalar(1, 1), scalar(2, 1), piece(3, b"a"), b"")))


def _input(draw: Draw, path: str, room: int) -> bytes:
    """Input: examples with a context or without."""
    count = draw.number(f"{path}.examples", 1 << 23)
    count = min(count, MAX_EXAMPLES) if draw.pick(f"{path}.within", (True, False)) else count
    context = fill(draw, f"{path}.context", room // 2) if draw.pick(f"{path}.shared", (False, True)) else None
    left = room - len(context or b"")
    example = fill(draw, f"{path}.example", max(left // max(count, 1) - 8, 0))
    made = repeated(piece(1, example), count, left)
    return piece(1, made) if context is None else piece(2, made + piece(2, context))
