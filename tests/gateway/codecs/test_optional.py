"""Optional inputs, signatures without inputs, and tensors that cannot be carried, in every codec that reads them."""

from __future__ import annotations

import pickle
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs import tfserving, torchserve, v2, v2_grpc
from gateway.codecs import tfserving_predict as predict
from gateway.codecs import tfserving_rest as rest
from gateway.errors import InvalidArgument, Unimplemented
from gateway.protos import tfserving_pb2 as pb
from gateway.protos import v2_pb2
from gateway.signature import check
from gateway.types import InferRequest, Signature, Tensor, TensorSpec, VersionMetadata

#: And whether the rank is free.
SHAPES = st.sampled_from([((), False), ((-1,), False), ((-1, 2), False), ((1,), False), ((), True)])
SPECS = st.builds(
    lambda name, datatype, shape, optional: TensorSpec(name, datatype, *shape, optional=optional),
    st.sampled_from("abc"),
    st.sampled_from(["FP32", "INT64", "BYTES", "COMPLEX64", "QINT8", "SPARSE", "INVALID"]),
    SHAPES,
    st.booleans(),
)
SIGNATURES = st.lists(SPECS, max_size=3, unique_by=lambda spec: spec.name).map(
    lambda inputs: Signature(tuple(inputs), (TensorSpec("y", "FP32", (-1,)),))
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(-1, 1), st.sampled_from(["", "x"]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*"abcz", "b64"]), inner, max_size=3),
    max_leaves=6,
)
BODIES = VALUES | st.dictionaries(st.sampled_from(["instances", "inputs", "a", "signature_name"]), VALUES, max_size=2)


def tensors_of(decode: Any) -> tuple[Tensor, ...]:
    """What a codec makes of a body. Nothing but a fault of the caller's or of ours may be raised."""
    try:
        return tuple(decode())
    except (InvalidArgument, Unimplemented):
        return ()


@settings(max_examples=100, deadline=None)
@given(SIGNATURES, BODIES)
def test_a_body_is_decoded_or_the_callers_fault(signature: Signature, body: Any) -> None:
    """Whatever is sent, and whatever of it may be left out; what was decoded passes the check or is refused by it."""
    content = orjson.dumps(body)
    for tensors in (
        tensors_of(lambda: rest.decode_predict(content).inputs(signature)),
        tensors_of(lambda: torchserve.decode(content, signature).inputs),
        tensors_of(lambda: torchserve.decode(content, signature, "application/octet-stream").inputs),
        tensors_of(lambda: v2.decode_raw_request(content, signature).inputs),
    ):
        tensors_of(lambda sent=tensors: check(InferRequest("m", sent), signature).inputs)


X = TensorSpec("x", "FP32", (-1,))
SPARE = TensorSpec("spare", "FP32", (-1,), optional=True)


@pytest.mark.parametrize("specs", [(SPARE, X), (X, SPARE), (X,)])
def test_what_has_no_name_is_for_the_one_input_that_must_be_given(specs: tuple[TensorSpec, ...]) -> None:
    signature = Signature(specs, ())
    for decoded in (
        rest.decode_predict(b'{"inputs": [1, 2]}').inputs(signature),
        rest.decode_predict(b'{"instances": [1, 2]}').inputs(signature),
        torchserve.decode(b"[1, 2]", signature).inputs,
        torchserve.decode(b'{"instances": [1, 2]}', signature).inputs,
        torchserve.decode(b"\0\0\x80?\0\0\0@", signature, "application/octet-stream").inputs,
        torchserve.decode_named({"body": b"[1, 2]"}, signature).inputs,
    ):
        assert [(tensor.name, tensor.data.tolist()) for tensor in decoded] == [("x", [1, 2])]


def test_of_several_that_must_be_given_or_of_none_a_bare_value_is_for_nobody() -> None:
    for specs in ((X, TensorSpec("z", "FP32", (-1,)), SPARE), (SPARE, TensorSpec("t", "FP32", (-1,), optional=True))):
        signature = Signature(specs, ())
        with pytest.raises(InvalidArgument, match="expecting an object"):
            rest.decode_predict(b'{"inputs": [1]}').inputs(signature)
        with pytest.raises(InvalidArgument, match="send them by name"):
            torchserve.decode(b"[1]", signature)


def test_no_inputs_are_decoded_over_v2_for_the_signature_to_judge() -> None:
    assert v2.decode_request(b'{"inputs": []}').inputs == ()
    asked = v2_grpc.decode_request(v2_pb2.ModelInferRequest())
    assert (asked.inputs, asked.raw) == ((), True)


def info(**members: Any) -> pb.TensorInfo:
    return pb.TensorInfo(tensor_shape=pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=-1)]), **members)


KINDS = {
    "c": ("COMPLEX128", info(name="c:0", dtype=pb.DT_COMPLEX128)),
    "f": ("FP32", info(name="f:0", dtype=pb.DT_FLOAT)),
    "future": ("dtype 99", info(name="u:0", dtype=99)),
    "none": ("INVALID", info(name="n:0")),
    "q": ("QUINT8", info(name="q:0", dtype=pb.DT_QUINT8)),
    "r": ("COMPOSITE", info(composite_tensor=pb.TensorInfo.CompositeTensor(), dtype=pb.DT_FLOAT)),
    "ref": ("FLOAT_REF", info(name="v:0", dtype=pb.DT_FLOAT_REF)),
    "s": ("SPARSE", info(coo_sparse=pb.TensorInfo.CooSparse(values_tensor_name="v:0"), dtype=pb.DT_FLOAT)),
    "v": ("VARIANT", info(name="v:0", dtype=pb.DT_VARIANT)),
}


def test_a_signature_is_known_whatever_its_tensors_are() -> None:
    """The kind: every dtype and encoding that TensorFlow has or will have."""
    infos = {name: made for name, (_, made) in KINDS.items()}
    found = tfserving.decode_signature(pb.SignatureDef(inputs=infos, outputs=infos, defaults={"q": pb.TensorProto()}))
    assert {spec.name: spec.datatype for spec in found.inputs} == {name: kind for name, (kind, _) in KINDS.items()}
    assert [spec.name for spec in found.inputs if spec.optional] == ["q"]
    assert not any(spec.optional for spec in found.outputs)


def test_a_signature_is_kept_as_it_came_and_equal_ones_are_equal() -> None:
    """Of two servers the same signature may come in another order; another would mean that the version was replaced."""
    infos = {name: made for name, (_, made) in KINDS.items()}
    one = pb.SignatureDef(inputs=infos, method_name="m", defaults={"q": pb.TensorProto(dtype=pb.DT_QUINT8)})
    other = pb.SignatureDef(method_name="m", defaults=one.defaults, inputs=dict(reversed(infos.items())))
    # A field that no version of ours knows.
    for message in (one, other):
        message.MergeFromString(b"\xfa\x3f\x03new")
    assert tfserving.decode_signature(one) == tfserving.decode_signature(other)
    assert b"new" in tfserving.decode_signature(one).native
    assert tfserving.definition(tfserving.decode_signature(one)) == one


def test_what_goes_with_a_body_to_another_process_has_no_default_values() -> None:
    defaults = {"x": pb.TensorProto(dtype=pb.DT_FLOAT, tensor_content=bytes(1 << 20))}
    signature = tfserving.decode_signature(pb.SignatureDef(inputs={"x": info(dtype=pb.DT_FLOAT)}, defaults=defaults))
    lean = predict.lean(VersionMetadata(1, ready=True, signatures={"s": signature}))
    assert len(pickle.dumps(lean)) < 1000
    assert lean.signatures["s"].inputs == signature.inputs


OPTIONAL = Signature((X, SPARE, TensorSpec("more", "FP32", (-1,), optional=True)), ())


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ("x", ""),
        ("x spare", ""),
        ("more x", ""),
        (
            "spare more",
            "Signature input alias: x(feed name: x:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {more,spare}, or default input alias set: more,spare",
        ),
        ("x z", "Inputs contains invalid name. Used request inputs: x, request input: x,z"),
        (
            "x spare more z",
            "input size does not match signature: 4!=3 len({more,spare,x,z}) != len({more,spare,x}). Sent extra: {z}. "
            "Missing but required: {}.",
        ),
    ],
)
def test_names_beside_defaults_are_refused_in_the_servers_words(sent: str, says: str) -> None:
    if not says:
        tfserving.check_names(sent.split(), (), OPTIONAL)
        return
    with pytest.raises(InvalidArgument) as raised:
        tfserving.check_names(sent.split(), (), OPTIONAL)
    assert raised.value.message == says
