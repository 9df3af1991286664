from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.codecs import npy, raw
from gateway.codecs import torchserve as codec
from gateway.codecs.torchserve import JSON, NPY, OCTETS, Body, Envelope
from gateway.errors import InvalidArgument, NotAcceptable
from gateway.types import DATATYPES, InferResponse, Signature, Tensor, TensorSpec, VersionMetadata

ONE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))
TWO = Signature((TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,))), ())
TEXT = Signature((TensorSpec("text", "BYTES", (-1,)),), ())
MULTIPART = "multipart/form-data; boundary=b"


def multipart(**parts: tuple[str, bytes]) -> bytes:
    pieces = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n{kind}\r\n'.encode() + data + b"\r\n"
        for name, (kind, data) in parts.items()
    ]
    return b"".join(pieces) + b"--b--\r\n"


def answer(body: Body, accept: str | None = None, **outputs: Any) -> bytes:
    tensors = tuple(
        Tensor(name, "BYTES" if array.dtype == object else "FP32", array) for name, array in outputs.items()
    )
    return b"".join(codec.encode(InferResponse("m", "pytorch", 1, tensors), body, accept).pieces)


def of(body: bytes, signature: Signature = ONE, kind: str | None = None) -> dict[str, Any]:
    return {tensor.name: tensor.data.tolist() for tensor in codec.decode(body, signature, kind).inputs}


_DATATYPES = [name for name in DATATYPES if name not in ("BYTES", "FP16", "BF16")]


@st.composite
def tensors(draw: st.DrawFn, datatypes: list[str], *, finite: bool) -> Tensor:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    if datatype == "BYTES":
        array = np.empty(int(np.prod(shape)), np.object_)
        array[:] = draw(st.lists(st.text().map(str.encode), min_size=array.size, max_size=array.size))
        return Tensor("x", datatype, array.reshape(shape))
    if finite and datatype in ("FP32", "FP64"):
        width = 32 if datatype == "FP32" else 64
        elements = st.floats(allow_nan=False, allow_infinity=False, width=width)
        return Tensor("x", datatype, draw(hnp.arrays(DATATYPES[datatype], shape, elements=elements)))
    return Tensor("x", datatype, draw(hnp.arrays(DATATYPES[datatype], shape)))


def signature_of(tensor: Tensor) -> Signature:
    spec = TensorSpec("x", tensor.datatype, (-1, *tensor.shape[1:]))
    return Signature((spec,), (spec,))


@given(tensors([*_DATATYPES, "BYTES"], finite=True))
def test_json_answers_are_json_requests_and_exact(tensor: Tensor) -> None:
    """What one model answers can be sent to the next: shortest decimals, int64 beyond 2^53, any text."""
    assume(tensor.shape[0] == 0 or 0 not in tensor.shape[1:])  # else the list does not tell its trailing sizes
    document = codec.encode(InferResponse("m", "v", 1, (tensor,)), Body(()), None).pieces[0]
    decoded = codec.decode(bytes(document), signature_of(tensor), JSON).inputs[0]
    assert decoded.shape == tensor.shape
    assert bytes(raw.encode(decoded)) == bytes(raw.encode(tensor))


@given(tensors([*_DATATYPES, "FP16", "BF16"], finite=False))
def test_raw_bytes_are_exact_and_their_number_tells_the_batch(tensor: Tensor) -> None:
    assume(0 not in tensor.shape[1:])  # no bytes, whatever the batch
    document = codec.encode(InferResponse("m", "v", 1, (tensor,)), Body(()), OCTETS)
    body = b"".join(document.pieces)
    assume(not body.startswith(npy.MAGIC))
    decoded = codec.decode(body, signature_of(tensor), OCTETS).inputs[0]
    assert decoded.shape == tensor.shape
    assert bytes(raw.encode(decoded)) == body


@given(st.binary(max_size=60), st.sampled_from([None, JSON, OCTETS, NPY, "text/plain", codec.FORM, MULTIPART, "x/y"]))
def test_no_body_raises_anything_but_invalid_argument(body: bytes, kind: str | None) -> None:
    for signature in (ONE, TWO, TEXT):
        for whole in (body, b"[" + body + b"]", npy.MAGIC + body):
            with suppress(InvalidArgument):
                codec.decode(whole, signature, kind)


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (b'{"a":[[1,2]],"b":[3]}', {"a": [[1, 2]], "b": [3]}),
        (b'{"inputs":{"a":[[1,2]],"b":[3]}}', {"a": [[1, 2]], "b": [3]}),
        (b'{"instances":[{"a":[1,2],"b":3},{"b":9007199254740993,"a":[4,5]}]}', {
            "a": [[1, 2], [4, 5]],
            "b": [3, 9007199254740993],
        }),
        (b'{"instances":[]}', {"a": [], "b": []}),
    ],
)  # fmt: skip
def test_several_inputs_come_by_name(body: bytes, inputs: dict[str, Any]) -> None:
    assert of(body, TWO) == inputs


def test_an_input_may_be_called_as_an_envelope_is() -> None:
    signature = Signature((TensorSpec("instances", "FP32", (-1,)),), ())
    decoded = codec.decode(b'{"instances":[1]}', signature, JSON)
    assert decoded.envelope is Envelope.BARE


@pytest.mark.parametrize(
    ("kind", "body", "elements"),
    [
        ("text/plain; charset=utf-8", "grüße [1]".encode(), ["grüße [1]".encode()]),
        ("text/plain", b'["not", "JSON"]', [b'["not", "JSON"]']),
        ("text/plain", b"", [b""]),
        (OCTETS, b"\xff\x00", [b"\xff\x00"]),
        (JSON, '["ü","b"]'.encode(), ["ü".encode(), b"b"]),
        (JSON, b'"one"', [b"one"]),
        (None, b"any text", [b"any text"]),
        (None, b"42", [b"42"]),
        (None, b"[unbalanced", [b"[unbalanced"]),
        (None, b'["a","b"]', [b"a", b"b"]),
        (None, b'{"instances":["a"]}', [b"a"]),
        (None, b'{"text":["a"]}', [b"a"]),
        (None, b"\xff\xfe\x00", [b"\xff\xfe\x00"]),
        (codec.FORM, b"text=a%20b+c", [b"a b c"]),
        (codec.FORM, b"what a sentence", [b"what a sentence"]),
        (MULTIPART, multipart(text=("", b"plain")), [b"plain"]),
        (MULTIPART, multipart(data=("Content-Type: text/plain\r\n", b'"q"')), [b'"q"']),
        (MULTIPART, multipart(text=("Content-Type: application/json\r\n", b'["a","b"]')), [b"a", b"b"]),
    ],
)
def test_text_is_taken_as_it_is_and_json_where_it_is_meant(
    kind: str | None, body: bytes, elements: list[bytes]
) -> None:
    assert of(body, TEXT, kind) == {"text": elements}


def test_named_parts_may_differ_in_form() -> None:
    octets = "Content-Type: application/octet-stream\r\n"
    number = npy.encode(Tensor("b", "INT64", np.array([7])))
    body = multipart(a=(octets, np.float32([[1, 2]]).tobytes()), b=("", number))
    assert of(body, TWO, MULTIPART) == {"a": [[1, 2]], "b": [7]}
    body = multipart(a=(octets, b"[[1, 2]]"), b=("", b"[7]"))
    assert of(body, TWO, MULTIPART) == {"a": [[1, 2]], "b": [7]}


def test_what_is_declared_as_bytes_is_never_read_as_text() -> None:
    """Eight bytes that are JSON text are two numbers, if the client says octet-stream; if it says nothing, JSON."""
    body = b"[[1, 2]]"
    assert of(body, ONE, OCTETS) == {"x": np.frombuffer(body, "<f4").reshape(-1, 2).tolist()}
    assert of(body, ONE) == {"x": [[1, 2]]}


@pytest.mark.parametrize(
    ("body", "kind", "signature", "says"),
    [
        (b"[[1,2]]", JSON, TWO, "send them by name"),
        (b"\0" * 8, OCTETS, TWO, "send them by name"),
        (npy.MAGIC + b"\1\0", None, TWO, "send them by name"),
        (b"", None, ONE, "the body is empty"),
        (b"\0" * 7, OCTETS, ONE, "no whole number of 8 bytes"),
        (b"\0" * 8, OCTETS, Signature((TensorSpec("x", "FP32", (-1, -1)),), ()), "several free dimensions"),
        (b"\0" * 8, OCTETS, Signature((TensorSpec("x", "FP32", (3,)),), ()), "takes 12 bytes, got 8"),
        (b"\0" * 8, OCTETS, Signature((TensorSpec("x", "UNKNOWN", (3,)),), ()), "not served"),
        (b'{"a":[[1,2]],"c":[3]}', JSON, TWO, "unknown: 'c'"),
        (b'{"instances":[{"a":[1,2]}]}', JSON, TWO, "element 0 of 'instances' must be an object of 'a', 'b'"),
        (b'{"instances":[{"a":[1,2],"b":1},3]}', JSON, TWO, "element 1"),
        (b'{"instances":[3]}', JSON, TWO, "send them by name"),
        (b'{"instances":3}', JSON, ONE, "must be a list"),
        (b'{"inputs":[{"name":"x"}]}', JSON, ONE, "'shape' must be a list"),
        (b"a=1&z=2", codec.FORM, TWO, "unknown: 'z'"),
        (b"&".join([b"a=1"] * 300), codec.FORM, TWO, "more than 256 fields"),
        (b"text", "text/plain", ONE, "not valid JSON"),
        (b"{", "application/vnd.x+json", TEXT, "not valid JSON"),
    ],
)
def test_bad_bodies_are_told_what_is_wrong(body: bytes, kind: str | None, signature: Signature, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        codec.decode(body, signature, kind)


def test_the_raw_request_of_the_open_inference_protocol() -> None:
    """A header length of 0: the one tensor's bytes; the answer is in the binary form."""
    body = codec.decode(np.float32([[1, 2]]).tobytes(), ONE, OCTETS, 0)
    encoded = codec.encode(InferResponse("m", "pytorch", 1, body.inputs), body, None)
    assert encoded.header_length
    assert encoded.pieces[1] == np.float32([[1, 2]]).tobytes()


def test_several_outputs_are_an_object_or_rows_or_the_binary_form() -> None:
    outputs = {"y": np.float32([[1], [2]]), "label": np.array([b"a", "ü".encode()], object)}
    assert orjson.loads(answer(Body(()), **outputs)) == {"y": [[1], [2]], "label": ["a", "ü"]}
    rows = Body((), Envelope.INSTANCES)
    assert orjson.loads(answer(rows, **outputs)) == {
        "predictions": [{"y": [1], "label": "a"}, {"y": [2], "label": "ü"}]
    }
    columns = Body((), Envelope.INPUTS)
    assert orjson.loads(answer(columns, **outputs)) == {"outputs": {"y": [[1], [2]], "label": ["a", "ü"]}}
    assert answer(Body(()), OCTETS, **outputs).endswith(np.float32([1, 2]).tobytes() + b"\1\0\0\0a\2\0\0\0\xc3\xbc")
    with pytest.raises(NotAcceptable, match="one output"):
        answer(Body(()), NPY, **outputs)
    with pytest.raises(NotAcceptable, match="no rows in common"):
        answer(rows, y=np.float32([1, 2]), z=np.float32([1]))


def test_what_json_cannot_carry_is_an_error() -> None:
    with pytest.raises(NotAcceptable, match=r"NaN.*Accept: application/octet-stream"):
        answer(Body(()), y=np.float32([np.nan]))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, None),
        ("*/*", None),
        ("text/html", None),
        ("application/json", JSON),
        ("application/x-npy, */*", NPY),
        ("application/json;q=0.5, APPLICATION/OCTET-STREAM", OCTETS),
        ("application/json, application/octet-stream", JSON),
        ("application/x-npy;q=0", None),
        ("application/x-npy;q=x", None),
    ],
)
def test_accept(header: str | None, found: str | None) -> None:
    assert codec.accepted(header) == found


@pytest.mark.parametrize(
    ("text", "version"),
    [("1", 1), ("1.0", 1), ("12.00", 12), ("1.5", None), ("x", None), ("", None), ("²", None), ("1" * 19, None)],
)
def test_versions_are_texts(text: str, version: int | None) -> None:
    assert codec.version(text) == version


def test_a_model_without_the_default_signature_says_which_it_has() -> None:
    with pytest.raises(InvalidArgument, match="signatures are classify"):
        codec.signature_of(VersionMetadata(1, True, {"classify": ONE}))
