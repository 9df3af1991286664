"""Base64 for BYTES where it is asked for, in each form that clients use, and nowhere else."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.codecs import v2, v2_grpc
from gateway.errors import DuetError, InvalidArgument
from gateway.protos import v2_pb2
from gateway.types import InferResponse, Tensor

#: No UTF-8.
BYTES = b"\xff\x00hi"
TEXT = b64encode(BYTES).decode()
SAID = {"content_encoding": "base64"}
MLSERVER = {"content_type": "base64"}


def strings(*items: bytes, name: str = "s") -> Tensor:
    data = np.empty(len(items), np.object_)
    data[:] = list(items)
    return Tensor(name, "BYTES", data)


def request(*data: Any, parameters: Any = None, of_request: Any = None, **members: Any) -> bytes:
    tensor = {"name": "s", "shape": [len(data)], "datatype": "BYTES", "data": list(data), **members}
    tensor |= {} if parameters is None else {"parameters": parameters}
    return orjson.dumps({"inputs": [tensor]} | ({} if of_request is None else {"parameters": of_request}))


def decoded(body: bytes) -> list[bytes]:
    return list(v2.decode_request(body).inputs[0].data.ravel().tolist())


@pytest.mark.parametrize(
    "body",
    [
        request(TEXT, TEXT, parameters=SAID),
        request(TEXT, TEXT, parameters=MLSERVER),
        request(TEXT, TEXT.rstrip("="), of_request=SAID),
        request(TEXT, TEXT, of_request=MLSERVER),
        request({"b64": TEXT}, {"b64": TEXT}),
        request({"b64": TEXT}, TEXT, parameters=SAID),
        request([TEXT], [TEXT], parameters=SAID, shape=[2, 1]),
        request([{"b64": TEXT}], [{"b64": TEXT}], shape=[2, 1]),
    ],
)
def test_each_way_to_ask_for_it_is_understood(body: bytes) -> None:
    assert decoded(body) == [BYTES, BYTES]


@pytest.mark.parametrize(
    ("parameters", "of_request"),
    [
        (None, None),
        ({}, None),
        ({"content_type": "str"}, None),
        ({"content_type": "pillow_image"}, SAID),
        ({"content_encoding": "utf-8"}, SAID),
        ({"content_encoding": "identity"}, MLSERVER),
        (None, {"content_type": "pd"}),
        ({"encoding": "base64"}, None),
    ],
)
def test_a_string_that_nobody_calls_base64_stays_what_it_is(parameters: Any, of_request: Any) -> None:
    """Also where it looks so, and where the request says something else of it than of the others."""
    assert decoded(request(TEXT, "aGk=", "ü", parameters=parameters, of_request=of_request)) == [
        TEXT.encode(),
        b"aGk=",
        "ü".encode(),
    ]


@pytest.mark.parametrize(
    "text", ["a", "aGk", "aGk=", "aGk===", "a-_b", "aG k=", "aGk=aGk=", "ü", "=", "aGk\n", "a===", ""]
)
@pytest.mark.parametrize("form", ["element", "object"])
def test_what_is_no_base64_is_refused_by_its_tensors_name(text: str, form: str) -> None:
    body = request(text, parameters=SAID) if form == "element" else request({"b64": text})
    if text in ("aGk", "aGk=", ""):
        assert decoded(body) == [b"hi" if text else b""]
        return
    with pytest.raises(InvalidArgument, match=r"tensor 's': an element is no Base64"):
        v2.decode_request(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (request(TEXT, parameters={"content_encoding": "gzip"}), r"of tensor 's' is 'gzip'; known are 'base64'"),
        (request(TEXT, parameters={"content_encoding": True}), r"of tensor 's' is True"),
        (request(TEXT, of_request={"content_encoding": "br"}), r"of the request is 'br'"),
        (request(1, parameters=SAID, datatype="INT64"), r"tensor 's': base64 is for BYTES"),
        (request(1, parameters=SAID), r"tensor 's': BYTES takes strings"),
        (request({"b64": 1}), r"tensor 's': BYTES takes strings"),
        (request({"b64": TEXT, "x": 1}), r"tensor 's': BYTES takes strings"),
        (request({"B64": TEXT}), r"tensor 's': BYTES takes strings"),
        (request({"b64": "1"}, datatype="INT64"), r"tensor 's': INT64 takes integers"),
    ],
)
def test_what_cannot_be_meant_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        v2.decode_request(body)


def test_more_objects_than_are_taken_are_sent_to_the_form_without() -> None:
    """Strings have no such bound."""
    with pytest.raises(InvalidArgument, match="more than 512 objects; send elements as strings"):
        decoded(request(*[{"b64": TEXT}] * 600))
    assert len(decoded(request(*[TEXT] * 600, parameters=SAID))) == 600


def test_the_request_s_word_is_for_strings_alone() -> None:
    entries = [
        {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]},
        {"name": "s", "shape": [1], "datatype": "BYTES", "data": [TEXT]},
    ]
    x, s = v2.decode_request(orjson.dumps({"inputs": entries, "parameters": SAID})).inputs
    assert (x.data.tolist(), s.data.tolist()) == ([7], [BYTES])


def test_binary_data_that_says_so_is_base64_too() -> None:
    """It holds however the tensor travels: MLServer's clients send the same elements over gRPC."""
    blob = len(TEXT).to_bytes(4, "little") + TEXT.encode()
    entry = {"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {**SAID, "binary_data_size": len(blob)}}
    document = orjson.dumps({"inputs": [entry]})
    assert v2.decode_request(document + blob, len(document)).inputs[0].data.tolist() == [BYTES]


ANSWER = InferResponse(
    "m", "v", 1, (strings(BYTES, name="y"), Tensor("n", "INT64", np.array([1])), strings(b"z", name="z"))
)


def answer(outputs: Any = None, parameters: Any = None) -> dict[str, Any]:
    x = {"name": "x", "shape": [1], "datatype": "INT64", "data": [7]}
    message = {"inputs": [x], "outputs": outputs, "parameters": parameters}
    pieces, _ = v2.encode_response(ANSWER, form=v2.decode_request(orjson.dumps(message)).form)
    found = orjson.loads(b"".join(pieces))["outputs"]
    return {entry["name"]: (entry["data"], entry.get("parameters")) for entry in found}


def test_an_output_comes_in_base64_where_it_is_asked_for() -> None:
    """Which makes bytes that are no text possible in JSON; the entry says what it is, in the words of the client."""
    with pytest.raises(DuetError, match="ask for"):
        answer()
    plain = [{"name": "z"}, {"name": "n"}]
    assert answer([{"name": "y", "parameters": SAID}, *plain]) == {
        "y": ([TEXT], SAID),
        "n": ([1], None),
        "z": (["z"], None),
    }
    assert answer([{"name": "y", "parameters": MLSERVER}, *plain])["y"] == ([TEXT], MLSERVER)


@pytest.mark.parametrize("said", [SAID, MLSERVER])
def test_all_outputs_come_in_base64_where_the_request_says_so(said: dict[str, str]) -> None:
    assert answer(parameters=said) == {"y": ([TEXT], said), "n": ([1], None), "z": (["eg=="], said)}
    but = {"name": "z", "parameters": {"content_encoding": "utf-8"}}
    assert answer([{"name": "y"}, but, {"name": "n"}], said)["z"] == (["z"], None)


def test_an_encoding_of_an_output_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="output 'y' is 'gzip'"):
        answer([{"name": "y", "parameters": {"content_encoding": "gzip"}}])


@pytest.mark.parametrize("is_raw", [False, True])
def test_grpc_s_contents_are_bytes_unless_they_say_otherwise(is_raw: bool) -> None:
    for said, sent in ((None, BYTES), (None, TEXT.encode()), ("content_type", TEXT.encode())):
        message = v2_pb2.ModelInferRequest()
        entry = message.inputs.add(name="s", datatype="BYTES", shape=[1])
        if is_raw:
            message.raw_input_contents.append(len(sent).to_bytes(4, "little") + sent)
        else:
            entry.contents.bytes_contents.append(sent)
        if said:
            entry.parameters[said].string_param = "base64"
        wanted = BYTES if said else sent
        assert v2_grpc.decode_request(message).inputs[0].data.tolist() == [wanted]


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text() | st.just(TEXT),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "x"]), inner, max_size=2),
        max_leaves=6,
    ),
    st.sampled_from([None, SAID, MLSERVER, {"content_encoding": ""}, {"content_type": 3}]),
)
def test_nothing_that_is_sent_breaks_the_codec(data: Any, parameters: Any) -> None:
    """It is a tensor of bytes, or refused."""
    try:
        found = v2.decode_request(request(data, parameters=parameters))
    except InvalidArgument:
        return
    assert all(isinstance(item, bytes) for item in found.inputs[0].data)
