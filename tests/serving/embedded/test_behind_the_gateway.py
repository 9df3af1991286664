"""The real gateway in front of the server: signatures with defaults, without inputs, with tensors that it cannot carry.

Every dialect is called; what TensorFlow Serving's own two answer is compared with the server's answer to the same call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tensorflow as tf
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf.descriptor import Descriptor
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from gateway.protos import tfserving_pb2
from gateway.protos import torchserve_pb2 as torchserve
from tests.gateway.conftest import RunningGateway, start_gateway
from tests.serving.embedded.process import Server
from tests.serving.embedded.savedmodels import CLASSIFY, REGRESS, TYPES
from tests.serving.embedded.test_grpc import TIMEOUT, examples, request, spec

MODELS = ("half", "sums", "types", "scaled", "every", "nothing", "odd", "tasks", "biased")
ROW = [[1.0, 2.0]]
Stub = prediction_service_pb2_grpc.PredictionServiceStub


@pytest.fixture(scope="module")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    servers = {"tensorflow": {"kind": "tfserving", "endpoint": f"127.0.0.1:{server.port}"}}
    settings = {"servers": servers, "models": {name: {} for name in MODELS}}
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        for name in MODELS:
            running.wait_until(f"/v2/models/{name}/ready", 200)
        yield running
    finally:
        assert running.stop() == 0


@pytest.fixture(scope="module")
def channel(gateway: RunningGateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


# Callers: the same named arrays in, an output's values out, over each wire.

Given = Mapping[str, Any]
Caller = Callable[[RunningGateway, grpc.Channel, str, Given], Any]


def arrays(given: Given) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.array(value, np.int64 if name == "n" else None) for name, value in given.items()}


def datatype(array: np.ndarray[Any, Any]) -> str:
    return {"f": "FP32", "i": "INT64", "S": "BYTES", "O": "BYTES"}[array.dtype.kind]


def v2_rest(gateway: RunningGateway, _: grpc.Channel, model: str, given: Given) -> Any:
    entries = [
        {"name": name, "shape": array.shape, "datatype": datatype(array), "data": value_of(array.ravel())}
        for name, array in arrays(given).items()
    ]
    (output,) = posted(gateway, f"/v2/models/{model}/infer", {"inputs": entries})["outputs"]
    return np.array(output["data"]).reshape(output["shape"]).tolist()


def triton(module: Any, address: str, model: str, given: Given) -> Any:
    inputs = []
    for name, array in arrays(given).items():
        one = module.InferInput(name, list(array.shape), datatype(array))
        dtype = np.float32 if array.dtype.kind == "f" else object if array.dtype.kind == "S" else array.dtype
        one.set_data_from_numpy(array.astype(dtype))
        inputs.append(one)
    client = module.InferenceServerClient(address)
    try:
        answer = client.infer(model, inputs)
        described = answer.get_response()
        name = described.outputs[0].name if hasattr(described, "outputs") else described["outputs"][0]["name"]
        return texts(answer.as_numpy(name).tolist())
    finally:
        client.close()


def triton_over_http(gateway: RunningGateway, _: grpc.Channel, model: str, given: Given) -> Any:
    return triton(triton_http, gateway.url.removeprefix("http://").rstrip("/"), model, given)


def triton_over_grpc(gateway: RunningGateway, _: grpc.Channel, model: str, given: Given) -> Any:
    return triton(triton_grpc, f"127.0.0.1:{gateway.grpc_port}", model, given)


def columns(gateway: RunningGateway, _: grpc.Channel, model: str, given: Given) -> Any:
    return posted(gateway, f"/v1/models/{model}:predict", {"inputs": jsonable(given)})["outputs"]


def tensorflow_grpc(_: RunningGateway, channel: grpc.Channel, model: str, given: Given) -> Any:
    message = predict_pb2.PredictRequest(model_spec=spec(model))
    for name, array in arrays(given).items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(array, tf.float32 if array.dtype.kind == "f" else None))
    (output,) = Stub(channel).Predict(message, TIMEOUT).outputs.values()
    return texts(tf.make_ndarray(output).tolist())


def torchserve_rest(gateway: RunningGateway, _: grpc.Channel, model: str, given: Given) -> Any:
    return posted(gateway, f"/predictions/{model}", jsonable(given))


def torchserve_grpc(_: RunningGateway, channel: grpc.Channel, model: str, given: Given) -> Any:
    call = channel.unary_unary(
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
        request_serializer=torchserve.PredictionsRequest.SerializeToString,
        response_deserializer=torchserve.PredictionResponse.FromString,
    )
    inputs = {name: json.dumps(value).encode() for name, value in jsonable(given).items()}
    return json.loads(call(torchserve.PredictionsRequest(model_name=model, input=inputs), timeout=TIMEOUT).prediction)


CALLERS = [
    v2_rest,
    triton_over_http,
    triton_over_grpc,
    columns,
    tensorflow_grpc,
    torchserve_rest,
    torchserve_grpc,
]
each_front = pytest.mark.parametrize("call", CALLERS, ids=lambda caller: caller.__name__)


def posted(gateway: RunningGateway, path: str, body: Any) -> Any:
    answer = gateway.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def jsonable(given: Given) -> dict[str, Any]:
    return {name: value_of(array) for name, array in arrays(given).items()}


def value_of(array: np.ndarray[Any, Any]) -> Any:
    return array.astype(str).tolist() if array.dtype.kind == "S" else array.tolist()


def texts(value: Any) -> Any:
    if isinstance(value, list):
        return [texts(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


OPTIONAL = [
    ("biased", {"x": ROW}, [[2, 3]]),
    ("biased", {"x": ROW, "bias": [5]}, [[6, 7]]),
    ("scaled", {"zz_a": ROW}, [[24, 45]]),
    ("scaled", {"zz_a": ROW, "c": 0.5}, [[21.5, 42.5]]),
    ("scaled", {"zz_a": ROW, "b": [[0, 1]]}, [[4, 7]]),
    ("scaled", {"zz_a": ROW, "b": [[0, 1]], "c": 1}, [[2, 5]]),
    ("every", {}, ["7!", "8!"]),
    ("every", {"n": [1]}, ["1!"]),
    ("every", {"word": b"?"}, ["7?", "8?"]),
    ("nothing", {}, [[42]]),
]


@each_front
@pytest.mark.parametrize(("model", "given", "answer"), OPTIONAL)
def test_an_input_with_a_default_may_be_left_out(
    gateway: RunningGateway, channel: grpc.Channel, call: Caller, model: str, given: Given, answer: Any
) -> None:
    """The kind: a signature need not be given all its inputs.

    Members: a default as TensorFlow 2 saves it and as TensorFlow 1 does; of a batch, of a number, of a string; some are
    left out, or all; the order of those that are sent is not the signature's; a signature that has no input at all.
    """
    if "x" in given or "zz_a" in given:
        given = {name: np.float32(value) for name, value in given.items()}
    assert call(gateway, channel, model, given) == answer


@pytest.mark.parametrize(
    ("model", "body", "answer"),
    [
        ("biased", {"instances": ROW}, [[2, 3]]),
        ("biased", {"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}, [[2, 3], [4, 5]]),
        ("scaled", {"instances": [{"zz_a": [1, 2], "b": [0, 0]}]}, [[4, 5]]),
        ("odd", {"signature_name": "spare", "instances": [1, 2]}, [1, 2]),
        ("odd", {"signature_name": "spare", "inputs": [1, 2]}, [1, 2]),
        ("biased", {"inputs": ROW}, [[2, 3]]),
    ],
)
def test_rows_and_bare_values_are_for_the_input_that_must_be_given(
    gateway: RunningGateway, model: str, body: Any, answer: Any
) -> None:
    """TensorFlow Serving's REST forms, and TorchServe's of the same body; an optional input may be a complex one."""
    assert next(iter(posted(gateway, f"/v1/models/{model}:predict", body).values())) == answer
    if "signature_name" not in body:
        assert next(iter(posted(gateway, f"/predictions/{model}", body).values())) == answer


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"[[1, 2]]", {}),
        (np.float32(ROW).tobytes(), {"content-type": "application/octet-stream"}),
        (b'{"data": [[1, 2]]}', {}),
    ],
)
def test_a_body_without_names_is_for_the_input_that_must_be_given(
    gateway: RunningGateway, body: bytes, headers: dict[str, str]
) -> None:
    name = "/predictions/biased"
    if b"data" in body:
        answer = gateway.client.post(name, files={"data": b"[[1, 2]]"})
    else:
        answer = gateway.client.post(name, content=body, headers=headers)
    assert answer.json() == [[2, 3]]


def test_raw_bytes_over_v2_are_for_the_input_that_must_be_given(gateway: RunningGateway) -> None:
    headers = {"inference-header-content-length": "0"}
    answer = gateway.client.post("/v2/models/biased/infer", content=np.float32(ROW).tobytes(), headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[length:], np.float32).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v2/models/scaled/infer", {"inputs": []}, "missing: 'zz_a'"),
        (
            "/v2/models/biased/infer",
            {"inputs": [{"name": "bias", "shape": [1], "datatype": "FP32", "data": [1]}]},
            "wrong inputs (missing: 'x'); the model's inputs are 'bias', 'x', of which 'bias' may be left out",
        ),
        ("/v1/models/biased:predict", {"inputs": {"bias": [1]}}, "Missing named input: x in 'inputs' object."),
        ("/v1/models/biased:predict", {"instances": [{"x": [1, 2]}, {"x": [1, 2], "bias": 1}]}, "must be equal to: x"),
        ("/v1/models/biased:predict", {"instances": [{"x": [1, 2], "z": 1}]}, "does not have named input: z"),
        ("/v1/models/biased:predict", {"instances": [{"bias": 1}]}, "must be equal to: bias,x"),
        ("/v1/models/biased:predict", {"inputs": {"x": ROW, "bias": None}}, "Type: Null is not of expected type"),
        ("/v1/models/every:predict", {"inputs": [1]}, "expecting an object as multiple input tensors"),
        ("/predictions/biased", {"bias": [1]}, "missing: 'x'"),
        ("/predictions/biased", {"x": ROW, "z": 1}, "unknown: 'z'"),
        ("/predictions/biased", {"instances": [{"x": [1, 2]}, {"bias": 1}]}, "must be an object of 'x'"),
        ("/predictions/every", [1], "this one's are 'n', 'word': send them by name"),
    ],
)
def test_only_an_input_with_a_default_may_be_left_out(gateway: RunningGateway, path: str, body: Any, text: str) -> None:
    answer = gateway.client.post(path, json=body)
    assert answer.status_code == 400
    assert text in json.dumps(answer.json(), ensure_ascii=False).replace('\\"', '"')


def test_a_large_body_may_leave_an_input_out_too(gateway: RunningGateway) -> None:
    """It is decoded in another process, which gets the signature without the server's own bytes of it."""
    rows = [[0, index % 7] for index in range(24_000)]
    expected = [[1, 1 + index % 7] for index in range(24_000)]
    assert posted(gateway, "/v1/models/biased:predict", {"inputs": {"x": rows}}) == {"outputs": expected}
    assert posted(gateway, "/predictions/biased", {"x": rows}) == expected
    answer = gateway.client.post("/v1/models/nothing:predict", json={"inputs": rows})
    assert answer.status_code == 400


PREDICTIONS = [
    request(spec("scaled"), {"b": np.float32(ROW)}),
    request(spec("scaled"), {"zz_a": np.float32(ROW), "q": 1}),
    request(spec("scaled"), {"zz_a": np.float32(ROW), "b": np.float32(ROW), "c": 1.0, "q": 1}),
    request(spec("sums", signature_name="defaulted"), {"a": np.float32(ROW), "z": 1}),
    request(spec("sums", signature_name="defaulted"), {"b": np.int64([[1, 2]])}),
    request(spec("sums", signature_name="defaulted"), {"a": np.float32(ROW)}),
    request(spec("nothing"), {}),
    request(spec("nothing"), {"x": 1}),
    request(spec("odd", signature_name="spare"), {"x": np.float32([1, 2])}),
    request(spec("odd", signature_name="partly"), {"x": np.float32([1, 2])}, ("y",)),
    request(spec("odd", signature_name="free"), {"free": np.float32([[1], [2]])}),
]


@pytest.mark.parametrize("asked", PREDICTIONS, ids=range(len(PREDICTIONS)))
def test_predict_answers_as_the_server_does(server: Server, stub: Stub, asked: Any) -> None:
    """Answers and refusals: of signatures with defaults, of one without inputs, of calls that leave a tensor out."""
    assert outcome(stub, asked) == outcome(server.prediction, asked)


def outcome(stub: Any, asked: Any) -> Any:
    try:
        outputs = stub.Predict(asked, TIMEOUT).outputs
    except grpc.RpcError as error:
        return error.code(), error.details()  # type: ignore[attr-defined]
    return {name: tf.make_ndarray(value).tolist() for name, value in outputs.items()}


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": []},
        {"inputs": [1]},
        {"inputs": None},
        {"inputs": 3},
        {"inputs": "x"},
        {"inputs": {"b64": "eA=="}},
        {"instances": [{}]},
        {"instances": [1]},
        {"instances": []},
        {"instances": {}},
        {"instances": [{}], "inputs": {}},
        {},
    ],
    ids=json.dumps,
)
def test_values_for_a_signature_without_inputs_are_the_callers_fault(
    gateway: RunningGateway, client: httpx.Client, body: Any
) -> None:
    """The kind: a body in any form but an object of no inputs. The sentence begins with TensorFlow Serving's own."""
    answer = gateway.client.post("/v1/models/nothing:predict", json=body)
    directly = client.post("/v1/models/nothing:predict", json=body).json()["error"]
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(directly)
    assert answer.json()["error"].endswith('send {"inputs": {}}')
    for path in ("/v2/models/nothing/infer", "/predictions/nothing"):
        assert gateway.client.post(path, json=[1]).status_code == 400


@pytest.mark.parametrize("model", MODELS)
def test_metadata_is_the_models_own(
    server: Server, client: httpx.Client, gateway: RunningGateway, stub: Stub, model: str
) -> None:
    """The kind: whatever a SignatureDef says. Byte for byte over gRPC, member for member over REST.

    Tensor names, default values, complex and quantised types, free ranks, sparse and ragged tensors, the signature that
    initialises a TensorFlow 2 model, one without inputs.
    """
    asked = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec(model), metadata_field=["signature_def"])
    through, direct = stub.GetModelMetadata(asked, TIMEOUT), server.prediction.GetModelMetadata(asked, TIMEOUT)
    assert definitions(through) == definitions(direct)
    assert (through.model_spec, list(through.metadata)) == (direct.model_spec, list(direct.metadata))
    path = f"/v1/models/{model}/metadata"
    assert gateway.client.get(path).json() == client.get(path).json()


def definitions(answer: Any) -> bytes:
    """A map has no order on the wire but the one that is asked for."""
    packed = answer.metadata["signature_def"]
    message = get_model_metadata_pb2.SignatureDefMap()
    assert packed.Unpack(message)
    return bytes(message.SerializeToString(deterministic=True))


def test_metadata_names_the_model_as_the_client_did(gateway: RunningGateway, stub: Stub) -> None:
    name = "biased@tensorflow"
    asked = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec(name), metadata_field=["signature_def"])
    assert stub.GetModelMetadata(asked, TIMEOUT).model_spec == spec(name, version=1)
    told = gateway.client.get(f"/v1/models/{name}/versions/1/metadata").json()["model_spec"]
    assert told == {"name": name, "signature_name": "", "version": "1"}


def test_every_field_of_a_signature_is_known() -> None:
    """Ours are all of TensorFlow's fields, with its numbers and types: what JSON prints is what there is."""
    ours, theirs = tfserving_pb2.SignatureDef.DESCRIPTOR, meta_graph_pb2.SignatureDef.DESCRIPTOR
    assert described(ours, {}) == described(theirs, {})


def described(message: Descriptor, seen: dict[str, Any]) -> dict[str, Any]:
    if message.name in seen:
        return seen
    seen[message.name] = fields = {}
    for field in message.fields:
        kinds = [kind.name for kind in (field.message_type, field.enum_type, field.containing_oneof) if kind]
        fields[field.name] = (field.number, field.type, field.is_repeated, kinds)
        if field.enum_type:
            seen[field.enum_type.name] = {value.name: value.number for value in field.enum_type.values}
        if field.message_type:
            described(field.message_type, seen)
    return seen


UNCARRIED = [
    ("complex", "z", np.complex64([1j]), "COMPLEX64"),
    ("quantised", "q", np.float32([1]), "QINT8"),
    ("sparse", "s", np.float32([1]), "SPARSE"),
    ("ragged", "r", np.int64([1]), "COMPOSITE"),
    ("partly", "x", np.float32([1]), "COMPLEX64"),
]


@pytest.mark.parametrize(("signature", "name", "value", "kind"), UNCARRIED, ids=[case[0] for case in UNCARRIED])
def test_a_tensor_that_cannot_be_carried_is_named(
    gateway: RunningGateway, stub: Stub, signature: str, name: str, value: Any, kind: str
) -> None:
    """The kind: a signature with a tensor that has no datatype here, as input or output. No other call is refused."""
    wanted = "z" if signature == "partly" else name
    code, text = outcome(stub, request(spec("odd", signature_name=signature), {name: value}))
    assert (code.name, kind in text, f"'{wanted}'" in text) == ("UNIMPLEMENTED", True, True)
    body = {"signature_name": signature, "inputs": [1]}
    answer = gateway.client.post("/v1/models/odd:predict", json=body)
    assert (answer.status_code, f"'{wanted}'" in answer.json()["error"]) == (501, True)
    assert gateway.client.post("/v1/models/odd:predict", json={"inputs": [1, 2]}).json() == {"outputs": [2, 4]}
    assert gateway.client.get("/v2/models/odd/ready").status_code == 200


def test_a_signature_that_cannot_be_carried_hides_no_other(gateway: RunningGateway) -> None:
    """`types` has no default signature, and complex64 and complex128 among its named ones."""
    told = gateway.client.get("/v1/models/types/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert set(TYPES) < set(told)
    body = {"signature_name": "int8", "inputs": [1]}
    assert gateway.client.post("/v1/models/types:predict", json=body).json() == {"outputs": [1]}


def test_examples_are_fed_to_each_input_of_several_tasks(server: Server, stub: Stub) -> None:
    """The kind: one MultiInference over signatures whose input tensors are not the same; two, three, in any order."""
    names = [("squared", CLASSIFY), ("doubled", REGRESS), ("tripled", REGRESS)]
    for chosen in (names[:2], names[1:], names, names[::-1]):
        tasks = [
            inference_pb2.InferenceTask(model_spec=spec("tasks", signature_name=name), method_name=method)
            for name, method in chosen
        ]
        asked = inference_pb2.MultiInferenceRequest(tasks=tasks, input=examples(2, 5))
        direct = server.prediction.MultiInference(asked, TIMEOUT)
        assert stub.MultiInference(asked, TIMEOUT) == direct
        assert {one.model_spec.signature_name: values(one) for one in direct.results} == {
            name: {"squared": [4, 25], "doubled": [4, 10], "tripled": [6, 15]}[name] for name, _ in chosen
        }


def values(result: inference_pb2.InferenceResult) -> list[float]:
    if result.HasField("regression_result"):
        return [one.value for one in result.regression_result.regressions]
    return [row.classes[0].score for row in result.classification_result.classifications]


def test_a_call_without_a_task_is_refused_as_by_the_server(server: Server, stub: Stub) -> None:
    asked = inference_pb2.MultiInferenceRequest(input=examples(1))
    refusals = []
    for one in (stub, server.prediction):
        with pytest.raises(grpc.RpcError) as caught:
            one.MultiInference(asked, TIMEOUT)
        refusals.append((caught.value.code(), caught.value.details()))
    assert refusals[0] == refusals[1]


def test_optional_inputs_are_told(gateway: RunningGateway) -> None:
    """By v2's metadata over REST, by Triton's configuration over both, by TorchServe's description of the call."""
    told = gateway.client.get("/v2/models/scaled").json()["inputs"]
    assert {entry["name"]: entry.get("optional", False) for entry in told} == {"b": True, "c": True, "zz_a": False}
    told = gateway.client.get("/v2/models/scaled/config").json()["input"]
    assert {entry["name"]: entry.get("optional", False) for entry in told} == {"b": True, "c": True, "zz_a": False}
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{gateway.grpc_port}")
    assert [entry.optional for entry in client.get_model_config("scaled").config.input] == [True, True, False]
    assert [entry.name for entry in client.get_model_metadata("scaled").inputs] == ["b", "c", "zz_a"]
    client.close()
    described = gateway.client.request("OPTIONS", "/predictions/scaled").json()["paths"]["/predictions/scaled"]
    content = described["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["required"] == ["zz_a"]
    assert content["multipart/form-data"]["schema"]["required"] == ["zz_a"]
    assert "application/octet-stream" in content
