"""What the fuzzer found (`tests.security.fuzzing`), each kind by several of its members.

A text that is quoted in an error is escaped whole before it is cut. A message that only names something has no need of
megabytes. Numbers of a narrow type, and escapes of a form, become many times their size.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from gateway.codecs import multipart, npy, raw, tfserving, torchserve, wire
from gateway.errors import InvalidArgument, ResourceExhausted
from gateway.grpc.calls import Call
from gateway.protos import tfserving_pb2 as tf
from gateway.protos import torchserve_pb2 as torch
from gateway.protos import v2_pb2 as v2
from gateway.types import Signature, TensorSpec

LONG = "a" * (wire.MAX_TEXT_BYTES + 1)
JUST = "a" * wire.MAX_TEXT_BYTES
PAD = bytes(wire.MIN_BYTES)


def texts(text: str) -> dict[str, Any]:
    """Messages that hold the text in one place, each long enough for a look."""
    entry = v2.ModelInferRequest.InferInputTensor(name=text)
    spec = tf.ModelSpec(name="m", signature_name=text)
    return {
        "model": v2.ModelInferRequest(model_name=text, raw_input_contents=[PAD]),
        "id": v2.ModelInferRequest(id=text, raw_input_contents=[PAD]),
        "input": v2.ModelInferRequest(inputs=[entry], raw_input_contents=[PAD]),
        "parameter": v2.ModelInferRequest(parameters={"p": {"string_param": text}}, raw_input_contents=[PAD]),
        "parameter's name": v2.ModelInferRequest(parameters={text: {}}, raw_input_contents=[PAD]),
        "signature": tf.PredictRequest(model_spec=spec, inputs={"x": {"tensor_content": PAD}}),
        "tensor": tf.PredictRequest(inputs={text: {"tensor_content": PAD}}),
        "version": torch.PredictionsRequest(model_version=text, input={"x": PAD}),
        "part": torch.PredictionsRequest(input={text: PAD}),
    }


@pytest.mark.parametrize("name", texts(""))
def test_a_text_is_no_longer_than_an_error_should_escape(name: str) -> None:
    message = texts(LONG)[name]
    with pytest.raises(InvalidArgument, match="at most 16384 are taken"):
        wire.Checked(type(message)).FromString(message.SerializeToString())
    just = texts(JUST)[name]
    assert wire.Checked(type(just)).FromString(just.SerializeToString()) == just


def test_strings_of_tensors_are_no_texts() -> None:
    message = tf.PredictRequest(inputs={"x": {"string_val": [bytes(1 << 20)]}})
    assert wire.Checked(tf.PredictRequest).FromString(message.SerializeToString()) == message


def test_a_message_that_only_names_is_short() -> None:
    short = wire.Checked(v2.ModelReadyRequest, max_bytes=wire.MAX_NAMING_BYTES)
    with pytest.raises(ResourceExhausted, match="takes up to 65536"):
        short.FromString(bytes(wire.MAX_NAMING_BYTES + 1))
    assert short.FromString(v2.ModelReadyRequest(name="m").SerializeToString()).name == "m"


def test_every_call_that_only_names_takes_short_messages_alone() -> None:
    """Those that infer take long ones; a call without a message is not read at all."""
    from gateway.grpc import health, reflection, tfserving, torchserve
    from gateway.grpc import v2 as front

    seen: dict[str, int | None] = {}

    class Calls:
        statistics = ending = None

        def unary(self, _: Any, request: Any, *, path: str, everybody: bool = False, **__: Any) -> None:
            if not everybody:  # 4 KiB
                seen[path.rpartition("/")[2]] = request._max_bytes

        stream = unary

        def watch(self, *_: Any) -> None: ...

    calls, nobody, yes = Calls(), None, lambda: True
    front.services(nobody, calls, ready=yes)  # type: ignore[arg-type]
    tfserving.services(nobody, calls)  # type: ignore[arg-type]
    torchserve.services(nobody, calls, ready=yes)  # type: ignore[arg-type]
    health.services(calls, ready=yes, names=())  # type: ignore[arg-type]
    reflection.services(calls, names=())  # type: ignore[arg-type]
    infer = {"ModelInfer", "ModelStreamInfer", "Predict", "Classify", "Regress", "MultiInference"}
    infer |= {"Predictions", "StreamPredictions", "StreamPredictions2"}
    assert len(seen) > 15
    assert {name for name, most in seen.items() if most is None} == infer


def file(count: int, dtype: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(count, dtype))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("held", "wanted"), [(np.int8, "FP64"), (np.uint8, "INT64"), (np.int8, "FP32"), (np.float16, "FP64")]
)
def test_numbers_that_would_become_many_times_their_size_are_refused(held: Any, wanted: str) -> None:
    with pytest.raises(InvalidArgument, match="send it in the model's type"):
        npy.decode("x", wanted, file(5 << 20, held))


@pytest.mark.parametrize(("held", "wanted"), [(np.uint8, "FP32"), (np.float32, "FP64"), (np.float64, "FP32")])
def test_a_picture_of_four_million_numbers_is_taken(held: Any, wanted: str) -> None:
    assert npy.decode("x", wanted, file(4 << 20, held)).data.size == 4 << 20


@pytest.mark.parametrize("unit", [b"%", b"%41", b"%zz", b"x=%41&"])
def test_escapes_of_a_form_are_bounded_before_they_are_read(unit: bytes) -> None:
    signature = Signature((TensorSpec("x", "BYTES", (-1,)),), ())
    with pytest.raises(InvalidArgument, match="escapes"):
        torchserve.decode(b"x=" + unit * 40_000, signature, torchserve.FORM)
    assert torchserve.decode(b"x=" + b"%41" * 1000, signature, torchserve.FORM).inputs[0].data.item() == b"A" * 1000


def test_a_message_is_read_once_though_its_stream_answers_for_it() -> None:
    """An error inside a stream tells which request it was of. What was too much is not read again."""
    count = 0

    class Message:
        @staticmethod
        def FromString(_: bytes) -> None:  # noqa: N802 - protobuf's name
            nonlocal count
            count += 1
            raise InvalidArgument("too much")

    seen: Any = None
    call = Call(seen, None, None)
    with pytest.raises(InvalidArgument):
        call.read(b"", Message)
    assert call.read(b"", Message) is None
    assert count == 1


@pytest.mark.parametrize("sizes", [[0] * 5, [1, 127, 128, 5], [200, 3], [16384, 0, 1], []])
def test_strings_of_any_lengths_are_read(sizes: list[int]) -> None:
    """Short lengths take a shorter way."""
    wanted = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    lengths = b"".join(tfserving._packed_field("int_val", bytes(size))[1 : -size or None] for size in sizes)
    proto = tf.TensorProto(dtype=tf.DT_STRING, tensor_shape={"dim": [{"size": len(sizes)}]})
    proto.tensor_content = lengths + b"".join(wanted)
    assert list(tfserving.decode_tensor("x", proto).data) == wanted
    behind = b"".join(len(item).to_bytes(4, "little") + item for item in wanted)
    for buffer in (behind, memoryview(behind)):
        found = raw.decode("x", "BYTES", (len(sizes),), buffer).data
        assert list(found) == wanted
        assert all(type(item) is bytes for item in found)


class Looked:
    """A message that is looked at and not parsed."""

    DESCRIPTOR = v2.ModelInferRequest.DESCRIPTOR

    @staticmethod
    def FromString(_: bytes) -> None: ...  # noqa: N802 - protobuf's name


#: Ten bytes where one would do.
LONG_ZERO, LONG_TAG = b"\x80" * 9 + b"\0", b"\xf8\x80\x80\x80\0"


@pytest.mark.parametrize(
    "one",
    [b"\x0a" + LONG_ZERO, b"\x7a" + LONG_ZERO, b"\x78" + LONG_ZERO, b"\x78" + b"\xff" * 9 + b"\1", LONG_TAG + b"\0"],
)
def test_numbers_written_long_count_for_several(one: bytes) -> None:
    """Each byte of them is a step: 36,000 took 45 ms. Lengths, values and tags, known and not."""
    with pytest.raises(InvalidArgument, match="fields"):
        wire.Checked(v2.ModelInferRequest).FromString(one * (wire.MAX_FIELDS // 2))
    wire.Checked(Looked).FromString(one * (wire.MAX_FIELDS // 8))


@pytest.mark.parametrize("name", ["v2", "a tensor", "two tensors"])
def test_booleans_are_counted_before_they_are_read(name: str) -> None:
    """Eight million took 26 ms, and five times their size."""
    half = tf.TensorProto(bool_val=[False] * (wire.MAX_BOOLEANS // 2 + 1))
    contents = {"contents": {"bool_contents": [False] * (wire.MAX_BOOLEANS + 1)}}
    message: Any = {
        "v2": lambda: v2.ModelInferRequest(inputs=[contents]),
        "a tensor": lambda: tf.PredictRequest(inputs={"x": {"bool_val": [False] * (wire.MAX_BOOLEANS + 1)}}),
        "two tensors": lambda: tf.PredictRequest(inputs={"x": half, "y": half}),
    }[name]()
    with pytest.raises(InvalidArgument, match="booleans as values of 'bool_"):
        wire.Checked(type(message)).FromString(message.SerializeToString())


@pytest.mark.parametrize("head", [b"1+", b"(", b"{1:", b"'a',", b" "])
def test_a_header_of_npy_is_no_longer_than_a_plain_array_needs(head: bytes) -> None:
    """numpy reads ten thousand characters as Python, and once more as Python 2: 30 ms."""
    header = (head * 1500)[:1500]
    with pytest.raises(InvalidArgument, match="no valid") as refused:
        npy.decode("x", "FP32", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "Cannot parse" not in str(refused.value.__cause__), "it was read as Python"


def test_a_header_of_npy_may_be_padded_and_have_many_dimensions() -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones((1,) * 32, np.float32))
    assert npy.decode("x", "FP32", stream.getvalue()).data.shape == (1,) * 32


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.dtype(">f4"), np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_file_is_converted_as_a_small_one(dtype: Any, order: Any) -> None:
    """Without masks of all its values: an overflow anywhere is found, what was infinite before is none."""
    given = (np.arange(300_000) % 1000).reshape(500, 600).astype(dtype, order=order)
    stream = io.BytesIO()
    np.save(stream, given)
    found = npy.decode("x", "FP32", stream.getvalue()).data
    assert np.array_equal(found, given.astype(np.float32))
    if dtype is np.float64:
        for number, is_refused in ((np.inf, False), (np.nan, False), (1e300, True)):
            given[-1, -1] = number
            stream = io.BytesIO()
            np.save(stream, given)
            if is_refused:
                with pytest.raises(InvalidArgument, match="outside the range of FP32"):
                    npy.decode("x", "FP32", stream.getvalue())
            else:
                assert not np.isfinite(npy.decode("x", "FP32", stream.getvalue()).data[-1, -1])


@pytest.mark.parametrize("unit", [';a="\\""', ";a=b", ";a=b;c"])
def test_a_header_of_a_part_has_few_parameters(unit: str) -> None:
    """Parts of nothing else took 26 ms for each 128 KB."""
    part = f'--b\r\nContent-Disposition: form-data; name="x"{unit * 20}\r\n\r\n1\r\n--b--'
    with pytest.raises(InvalidArgument, match="more than 16 parameters"):
        multipart.decode(part.encode(), "multipart/form-data; boundary=b")


@pytest.mark.parametrize("filler", ["x: y", ";a" * 500, "Content-Type: a/b"])
def test_headers_of_all_parts_together_are_bounded(filler: str) -> None:
    head = f'\r\nContent-Disposition: form-data; name="x"\r\n{filler}' + " " * 2000
    body = f"--b{head}\r\n\r\n1\r\n" * 100 + "--b--"
    with pytest.raises(InvalidArgument, match="headers of the multipart body's parts take more than 131072"):
        multipart.decode(body.encode(), "multipart/form-data; boundary=b")
    few = f"--b{head}\r\n\r\n1\r\n" * 10 + "--b--"
    assert bytes(multipart.decode(few.encode(), "multipart/form-data; boundary=b")["x"].data) == b"1"
