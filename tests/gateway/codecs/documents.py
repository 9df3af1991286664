"""Request bodies in JSON by the seed, right ones and wrong ones, and what the codecs of all dialects make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from gateway.codecs import tfserving_examples, tfserving_predict, torchserve, v2
from gateway.errors import DuetError
from gateway.protos import tfserving_pb2 as pb
from gateway.types import Signature, Tensor, TensorSpec, VersionMetadata

_FLAVOURS: dict[str, tuple[str, ...]] = {
    "small": ("0", "1", "2", "-1", "255"),
    "whole": ("0", "-0", "300", "70000", "-129", "9007199254740993", "4294967296"),
    "huge": ("18446744073709551615", "9223372036854775807", "-9223372036854775808", "1"),
    "broken": ("1.5", "-0.0", "0.1", "1e3", "1E-7", "3.4e38", "16777217.0", "123456.789012345678"),
    "mixed": ("1", "2.5", "-0", "-0.0", "9007199254740993", "1e3", "7"),
    "truth": ("true", "false"),
    "words": ('"a"', '""', '"b c"', r'"\u00e9\"\\"', '"é,[]{}"', r'"\\"', '"YWI="'),
    "coded": ('{"b64":"YWI="}', '{"b64": "YQ"}', '"x"'),
}
_ODD = (
    "null", "true", "1.5", "7", '"x"', "[]", "[1]", "{}", '{"b64":"YQ=="}', '{"b64":"!"}', '{"a":[1,2]}', "1e400",
    "-1e400", "1e39", "18446744073709551616", "-9223372036854775809", "NaN", "Infinity", "-Infinity", "01", "1.",
    ".5", "+1", "tru", r'"\ud800"', r'"\x"', '"\t"', "'a'", "", " ",
)  # fmt: skip
_SPACES = ("", "", "", "", " ", "\n", "\r\n\t", "  ")
_BITS = (
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
    b" ",
    b"\n",
    b"\xff",
    b"\xc3",
    b"\x00",
    b"e",
    b"0",
    b"-",
    b".",
    b"N",
)
_NAMES = ("x", "x", "y", "z", "data", "instances", "inputs", "b64", "é")


class Documents:
    """Makes bodies of about ``size`` values."""

    def __init__(self, seed: int, size: int = 24) -> None:
        self._random = Random(seed)
        self._size = size

    def v2(self) -> bytes:
        pick = self._random.choice
        entries = [self._tensor() for _ in range(pick((1, 1, 1, 2, 3)))]
        members = [f'"inputs":{self._listed(entries)}']
        extra = (
            '"id":"a"', '"id":7', '"parameters":{"a":1,"b":"c"}', '"parameters":{"a":[1]}', '"outputs":[{"name":"o"}]',
            '"parameters":{"content_encoding":"base64"}', f'"more":{self._nested()}', '"inputs":[]', '"timeout":1',
            f'"id":{self._value()}', f'"parameters":{{"p":{self._value()}, "q":true}}',
        )  # fmt: skip
        return self._finished(self._object(members + [pick(extra) for _ in range(pick((0, 0, 1, 2)))]))

    def tfserving(self) -> bytes:
        member = self._random.choice(("instances", "instances", "inputs"))
        return self._finished(self._object([f'"{member}":{self._rows()}', *self._extras()]))

    def torchserve(self) -> bytes:
        pick = self._random.choice
        kind = pick(("bare", "named", "tfserving", "tfserving", "v2"))
        if kind == "bare":
            return self._finished(self._nested())
        if kind == "named":
            names = [pick(_NAMES) for _ in range(pick((1, 2)))]
            return self._finished(self._object([f'"{name}":{self._nested()}' for name in names]))
        return self.v2() if kind == "v2" else self.tfserving()

    def examples(self) -> bytes:
        rows = [self._features() for _ in range(self._random.randint(0, self._size))]
        extra = [f'"context":{self._features()}'] if self._random.random() < 0.2 else []
        return self._finished(self._object([f'"examples":{self._listed(rows)}', *extra, *self._extras()]))

    def _extras(self) -> list[str]:
        pick = self._random.choice
        extra = (
            '"signature_name":"serving_default"', '"signature_name":"two"', '"signature_name":3', '"instances":[1]',
            '"inputs":[[1]]', f'"z":{self._nested()}', r'"u":"\"instances\""',
        )  # fmt: skip
        return [pick(extra) for _ in range(pick((0, 0, 0, 1, 2)))]

    def _rows(self) -> str:
        kind = self._random.choice(("nested", "nested", "objects", "named", "lists"))
        if kind == "nested":
            return self._nested()
        if kind == "named":
            return self._object([f'"x":{self._nested()}', f'"y":{self._nested()}'])
        names = self._random.choice((("x",), ("x", "y"), ("y", "x"), ("x", "z")))
        shape, flavour, rows = self._shape(2), self._flavour(), []
        for _ in range(self._random.randint(1, self._size)):
            if kind == "lists":
                rows.append(self._of(shape, flavour))
                continue
            row = [f'"{name}":{self._of(shape, flavour)}' for name in names]
            if self._random.random() < 0.02:
                row.append('"w":1')
            rows.append(self._object(row))
        return self._listed(rows)

    def _features(self) -> str:
        flavours = [self._flavour() for _ in range(self._random.choice((1, 1, 2)))]
        return self._object([f'"{self._random.choice(_NAMES)}":{self._of(self._shape(1), each)}' for each in flavours])

    def _tensor(self) -> str:
        pick, shape = self._random.choice, self._shape(3)
        datatype = pick(("FP32", "FP32", "FP64", "INT64", "INT32", "UINT8", "UINT64", "BOOL", "BYTES", "FP16", "FP99"))
        flavours = {"BOOL": "truth", "BYTES": pick(("words", "coded")), "UINT8": "small", "UINT64": "huge"}
        flavour = flavours.get(datatype) or pick(("small", "whole", "mixed", "broken"))
        told = shape if pick((True, True, True, False)) else self._shape(3)
        data = self._of(shape, flavour)
        if pick((True, False, False)):  # flat, in the same shape
            data = self._of([_product(shape)], flavour)
        members = [f'"name":"{pick(("x", "y"))}"', f'"datatype":"{datatype}"', f'"shape":{told}', f'"data":{data}']
        if self._random.random() < 0.1:
            members.append(pick(('"parameters":{"a":1}', '"parameters":{"content_encoding":"base64"}', '"data":[1]')))
        self._random.shuffle(members)
        return self._object(members)

    def _nested(self) -> str:
        return self._of(self._shape(4), self._flavour())

    def _flavour(self) -> str:
        return self._random.choice(tuple(_FLAVOURS))

    def _shape(self, rank: int) -> list[int]:
        shape, room = [], self._size
        for _ in range(self._random.randint(1, rank)):
            shape.append(self._random.choice((0, 1, 1, 2, 3, self._random.randint(1, max(1, room)))))
            room = room // max(1, shape[-1])
        return shape

    def _of(self, shape: Sequence[int], flavour: str) -> str:
        chance = self._random.random()
        if chance < 0.008:
            return self._value()
        if not shape:
            return self._random.choice(_FLAVOURS[flavour])
        count = shape[0] + (chance > 0.99)
        return self._listed([self._of(shape[1:], flavour) for _ in range(count)])

    def _value(self) -> str:
        return self._random.choice(_ODD)

    def _space(self) -> str:
        return self._random.choice(_SPACES)

    def _listed(self, items: Sequence[str]) -> str:
        return f"[{self._space()}{f'{self._space()},{self._space()}'.join(items)}{self._space()}]"

    def _object(self, members: Sequence[str]) -> str:
        return f"{{{self._space()}{f'{self._space()},{self._space()}'.join(members)}{self._space()}}}"

    def _finished(self, text: str) -> bytes:
        """As it is, or with some wrong bytes in it."""
        body, pick = text.encode(), self._random.choice
        chance = self._random.random()
        if chance < 0.65:
            return body
        if chance < 0.7:
            return pick((b"\xef\xbb\xbf", b" ", b"x")) + body
        if chance < 0.76:
            return body + pick((b" ", b"\n", b"x", b"]", b"}", b",", b"{}", b"\xff"))
        for _ in range(pick((1, 1, 2, 3))):
            place = self._random.randint(0, len(body))
            body = body[:place] + pick((b"", pick(_BITS))) + body[place + pick((0, 1, 1, 5)) :]
        return body


def _product(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _signature(*inputs: tuple[str, str, tuple[int, ...]]) -> Signature:
    return Signature(tuple(TensorSpec(*each) for each in inputs), (), ordered=True)


_SIGNATURES = [
    _signature(("x", datatype, shape))
    for datatype in ("FP32", "FP64", "INT64", "INT32", "UINT8", "BOOL", "BYTES", "FP16")
    for shape in ((-1, -1), (-1,), (-1, 3))
] + [_signature(("x", "FP32", (-1, -1)), ("y", "INT64", (-1,)))]


def calls(seed: int, size: int = 24) -> list[tuple[str, bytes, Callable[[bytes], Any]]]:
    """Of each dialect a body, and what decodes it."""
    documents, random = Documents(seed, size), Random(seed)
    signature = random.choice(_SIGNATURES)
    version = VersionMetadata(1, True, {"serving_default": signature, "two": random.choice(_SIGNATURES)})
    media = random.choice((None, "application/json", "application/x-www-form-urlencoded", "text/plain"))
    return [
        ("v2", documents.v2(), v2.decode_request),
        ("predict", documents.tfserving(), lambda body: tfserving_predict.decode(body, version)),
        ("examples", documents.examples(), tfserving_examples.decode),
        ("torchserve", documents.torchserve(), lambda body: torchserve.decode(body, signature, media)),
        ("torchserve.named", documents.torchserve(), lambda body: torchserve.decode_named({"x": body}, signature)),
    ]


def outcome(decode: Callable[[bytes], Any], body: bytes) -> str:
    """All that there is to tell one result, or error, from another."""
    try:
        return _told(decode(body))
    except DuetError as error:
        return f"{type(error).__name__}: {error.message}"
    except Exception as error:  # a defect, and the same one
        return f"defect {type(error).__name__}"


def _told(value: Any) -> str:
    if isinstance(value, tfserving_examples.ExamplesBody):
        # A map's entries have no order.
        examples = [pb.Example.FromString(example) for example in value.examples]
        return f"{value.signature_name} {[example.SerializeToString(deterministic=True) for example in examples]}"
    if isinstance(value, Tensor):
        data = value.data.tolist() if value.datatype == "BYTES" else value.data.tobytes().hex()
        return f"{value.name} {value.datatype} {value.shape} {value.data.dtype} {data}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(map(_told, value))})"
    if isinstance(value, dict):
        return f"{type(value).__name__}({', '.join(f'{key!r}: {_told(item)}' for key, item in value.items())})"
    if hasattr(value, "__slots__") and not isinstance(value, str | bytes | int | float):
        return f"{type(value).__name__}({', '.join(_told(getattr(value, name)) for name in value.__slots__)})"
    return repr(value)
