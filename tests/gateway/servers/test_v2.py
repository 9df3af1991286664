"""The client of servers of the Open Inference Protocol, against one that fails on purpose. Real ones: tests/peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gateway import errors
from gateway.config import Settings
from gateway.protos import v2_pb2 as pb
from gateway.servers.base import Server, ServerAddress
from gateway.servers.kinds import settings_of
from gateway.servers.v2.kind import V2Kind
from gateway.types import InferRequest, Tensor, TensorSpec
from tests.fakes.v2 import FakeV2, failure

pytestmark = pytest.mark.anyio

X = np.array([[1.5], [2.0]], np.float32)


@pytest.fixture
def server() -> Iterator[FakeV2]:
    fake = FakeV2({"m": ["1", "3"], "plain": []})
    yield fake
    fake.close()


@pytest.fixture(params=["rest", "grpc"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client(server: FakeV2, wire: str, **settings: Any) -> Server:
    """As the composition root makes it."""
    endpoint = server.http_endpoint if wire == "rest" else server.grpc_endpoint
    read = settings_of({"kind": "v2", "endpoint": endpoint, **settings})
    return V2Kind().connect(read, ServerAddress("triton", read.host, read.port))


def asking(*tensors: Tensor, model: str = "m", version: int = 3, **more: Any) -> InferRequest:
    return InferRequest(model, tensors or (Tensor("x", "FP32", X),), version=version, **more)


async def test_tensors_go_out_and_come_back(server: FakeV2, wire: str) -> None:
    """In the model's version, and by what the server takes: binary where it says so."""
    backend = client(server, wire)
    await backend.metadata("m")
    response = await backend.infer(asking())
    assert (response.variant, response.version) == ("triton", 3)
    np.testing.assert_array_equal(response.outputs[0].data, 2 * X)
    (sent,) = server.predicted
    if wire == "rest":
        assert sent["inputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [2, 1], "parameters": {"binary_data_size": 8}}
        ]
    else:
        assert sent.model_version == "3"
    await backend.aclose()


async def test_metadata_tells_versions_signature_and_default(server: FakeV2, wire: str) -> None:
    backend = client(server, wire)
    found = await backend.metadata("m")
    assert (list(found.versions), found.default, found.platform) == ([1, 3], 3, "fake")
    signature = found.versions[3].signature
    assert signature is not None
    assert signature.inputs == (TensorSpec("x", "FP32", (-1, 1)),)
    server.unready.add("m/3")
    found = await backend.metadata("m")
    assert (found.default, found.versions[3].ready, found.versions[3].reason) == (
        1,
        False,
        "its server says that it is not ready",
    )
    await backend.aclose()


@pytest.mark.parametrize("versions", [[], ["v1.2"], ["latest", "2.0"]], ids=["none", "text", "texts"])
async def test_a_server_without_whole_numbers_for_versions_has_version_1(
    server: FakeV2, wire: str, versions: list[str]
) -> None:
    """KServe has none, and MLServer's may be any text: the server is asked for its own choice."""
    server.models["plain"] = versions
    backend = client(server, wire)
    found = await backend.metadata("plain")
    assert (list(found.versions), found.default) == ([1], 1)
    await backend.infer(asking(model="plain", version=1))
    if wire == "rest":
        assert "/versions/" not in "".join(server.asked)
    else:
        assert server.predicted[-1].model_version == ""
    await backend.aclose()


async def test_unknown_models_are_not_found(server: FakeV2, wire: str) -> None:
    backend = client(server, wire)
    with pytest.raises(errors.NotFound, match="unknown model: 'other'"):
        await backend.metadata("other")
    await backend.aclose()


@pytest.mark.parametrize(
    ("lists", "rest", "grpc"),
    [("index", ["m", "plain"], ["m", "plain"]), ("list", ["m", "plain"], None), ("neither", None, None)],
)
async def test_models_are_listed_by_what_the_server_has(
    server: FakeV2, wire: str, lists: str, rest: list[str] | None, grpc: list[str] | None
) -> None:
    """Triton and MLServer have an index, KServe a list over REST alone; others have to be named in the settings."""
    server.lists, server.models["plain"] = lists, ["7"]
    backend = client(server, wire)
    assert await backend.models() == (rest if wire == "rest" else grpc)
    await backend.aclose()


async def test_a_server_that_takes_no_binary_gets_json(server: FakeV2) -> None:
    server.extensions = []
    backend = client(server, "rest")
    await backend.metadata("m")
    response = await backend.infer(asking(deadline=asyncio.get_running_loop().time() + 5))
    np.testing.assert_array_equal(response.outputs[0].data, 2 * X)
    assert server.predicted == [{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 2.0]}]}], (
        "neither binary nor a deadline is for a server that does not know of them"
    )
    await backend.aclose()


@pytest.mark.parametrize(("extensions", "binary"), [([], True), (["binary_tensor_data"], False)])
async def test_the_operator_knows_better_than_the_extensions(
    server: FakeV2, extensions: list[str], binary: bool
) -> None:
    server.extensions = extensions
    backend = client(server, "rest", binary=binary)
    await backend.metadata("m")
    await backend.infer(asking())
    assert ("data" not in server.predicted[0]["inputs"][0]) == binary
    await backend.aclose()


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("x", "FP16", np.array([1.5], np.float16)),
        Tensor("x", "BF16", np.array([16320], np.uint16)),
        Tensor("x", "FP32", np.array([np.nan], np.float32)),
        Tensor("x", "BYTES", np.array([b"\xff"], np.object_)),
    ],
    ids=["FP16", "BF16", "NaN", "no text"],
)
async def test_what_json_cannot_carry_is_refused_before_it_is_sent(server: FakeV2, tensor: Tensor) -> None:
    server.extensions = []
    backend = client(server, "rest")
    await backend.metadata("m")
    with pytest.raises(errors.Unimplemented, match=r"^input 'x' .* give its endpoint as grpc://"):
        await backend.infer(asking(tensor))
    assert not server.predicted
    await backend.aclose()


async def test_a_typed_answer_is_read_too(server: FakeV2) -> None:
    """KServe's models answer so unless they say otherwise."""
    server.typed = True
    backend = client(server, "grpc")
    response = await backend.infer(asking())
    np.testing.assert_array_equal(response.outputs[0].data, 2 * X)
    await backend.aclose()


async def test_what_is_left_of_the_deadline_travels_to_the_server(server: FakeV2, wire: str) -> None:
    """Over REST as Triton's parameter, in microseconds, to a server with that extension."""
    backend = client(server, wire)
    await backend.metadata("m")
    await backend.infer(asking(deadline=asyncio.get_running_loop().time() + 10))
    seconds = server.predicted[0]["parameters"]["timeout"] / 1e6 if wire == "rest" else server.timeouts[0]
    assert 8 < seconds < 10
    with pytest.raises(errors.DeadlineExceeded):
        await backend.infer(asking(deadline=asyncio.get_running_loop().time()))
    assert len(server.predicted) == 1
    await backend.aclose()


async def test_a_call_that_is_given_up_is_cancelled_at_the_server(server: FakeV2) -> None:
    server.delay_seconds = 1.0
    backend = client(server, "grpc")
    call = asyncio.create_task(backend.infer(asking()))
    assert await asyncio.to_thread(server.working.wait, 5)
    call.cancel()
    assert await asyncio.to_thread(server.cancelled.wait, 0.8)
    await backend.aclose()


async def test_a_call_over_rest_that_is_given_up_ends_its_connection() -> None:
    """The server sees that nobody waits any more: HTTP/1.1 has no other way to say so."""
    working, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"data")
        working.set()
        while await reader.read(1 << 16):
            pass
        ended.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        settings = settings_of({"kind": "v2", "endpoint": f"http://127.0.0.1:{port}"})
        backend = V2Kind().connect(settings, ServerAddress("triton", "127.0.0.1", port))
        call = asyncio.create_task(backend.infer(asking()))
        await working.wait()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        await backend.aclose()


async def test_nothing_of_a_request_but_its_tensors_goes_out(server: FakeV2, wire: str) -> None:
    """Neither the client's parameters nor its id."""
    backend = client(server, wire)
    await backend.metadata("m")
    await backend.infer(asking(parameters={"secret": "kept", "priority": 9}, id="kept"))
    assert "kept" not in str(server.predicted)
    assert "priority" not in str(server.predicted)
    await backend.aclose()


def _answer(**changed: Any) -> pb.ModelInferResponse:
    tensor = {"name": "y", "datatype": "FP32", "shape": [2, 1], **changed}
    raw = tensor.pop("raw", bytes(8))
    message = pb.ModelInferResponse(raw_output_contents=[raw] if raw is not None else [])
    message.outputs.add(**tensor)
    return message


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (_answer(raw=bytes(7)), errors.DataLoss, "takes 8 bytes, got 7"),
        (_answer(shape=[-1]), errors.DataLoss, "shape"),
        (_answer(raw=None), errors.DataLoss, "takes 2 values"),
        (_answer(datatype="FP8"), errors.Unimplemented, "FP8, which the gateway cannot carry"),
        (_answer(shape=[1] * 33), errors.Unimplemented, "33 dimensions"),
        (_answer(datatype="BYTES", raw=b"\xff\xff\xff\xff"), errors.DataLoss, "too few"),
        (pb.ModelInferResponse(raw_output_contents=[b"", b""]), errors.DataLoss, "2 raw contents for 0 outputs"),
    ],
    ids=["short", "negative", "empty", "datatype", "rank", "strings", "surplus"],
)
async def test_an_answer_that_is_none_is_the_servers_fault(
    server: FakeV2, answer: pb.ModelInferResponse, error: type[errors.DuetError], says: str
) -> None:
    server.grpc = lambda blob: answer
    backend = client(server, "grpc")
    with pytest.raises(error, match=says) as caught:
        await backend.infer(asking())
    assert caught.value.fault in (errors.CORRUPT, errors.UNSUPPORTED)
    await backend.aclose()


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", b"[]", b'"m"', b'{"inputs": 1}', b'{"inputs": [{"name": "x"}]}', b'{"versions": 1}'),
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": ["many"]}]}',
    ],
)
async def test_a_description_in_no_known_form_is_the_servers_fault(server: FakeV2, body: bytes) -> None:
    server.description = body
    backend = client(server, "rest")
    with pytest.raises(errors.DataLoss, match=r"in no known form|sent no JSON"):
        await backend.metadata("m")
    await backend.aclose()


async def test_a_model_that_does_not_describe_itself_needs_the_settings(server: FakeV2, wire: str) -> None:
    """Most of KServe's ready-made models are such."""
    server.signature = {"inputs": [], "outputs": []}
    backend = client(server, wire)
    found = (await backend.metadata("m")).versions[3]
    assert (found.ready, found.reason) == (
        False,
        "its server does not describe what it takes and gives; say so in the settings, servers.triton.signatures.m",
    )
    await backend.aclose()
    of_m = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]}
    of_m["outputs"] = [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]
    backend = client(server, wire, signatures={"m": of_m})
    signature = (await backend.metadata("m")).versions[3].signature
    assert signature is not None
    assert [spec.name for spec in signature.outputs] == ["y"]
    await backend.aclose()


async def test_a_server_that_is_another_after_a_restart_is_asked_what_it_takes(server: FakeV2) -> None:
    backend = client(server, "rest")
    await backend.metadata("m")
    server.extensions = []
    server.close()
    with pytest.raises(errors.Unavailable, match=r"^the v2 server cannot be reached$"):
        await backend.metadata("m")
    other = FakeV2({"m": ["3"]})
    try:
        other.extensions = []
        backend._wire._told._port = backend._wire._pool._port = other.http_port  # type: ignore[attr-defined]
        await backend.metadata("m")
        await backend.infer(asking())
        assert "data" in other.predicted[0]["inputs"][0]
    finally:
        other.close()
        await backend.aclose()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"endpoint": "h:1"}, "must be an address of the form grpc://host:port, http://host:port or https://host:port"),
        ({"endpoint": "ftp://h:1"}, "must be an address"),
        ({"endpoint": "https://h:1"}, "endpoint is https:// if tls is set"),
        ({"endpoint": "http://h:1", "tls": {}}, "endpoint is https:// if tls is set"),
        ({"binary": True}, "over gRPC tensors are always binary"),
        ({"signatures": {"m": {"inputs": [], "outputs": []}}}, "signatures.m.outputs"),
        (
            {"signatures": {"m": {"inputs": [], "outputs": [{"name": "y", "datatype": "float", "shape": []}]}}},
            "'float' is no datatype; known are BOOL",
        ),
        ({"management": "http://h:2"}, "management"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(changed: dict[str, Any], says: str) -> None:
    entry = {"kind": "v2", "endpoint": "grpc://h:1", **changed}
    with pytest.raises(ValueError, match=r"servers\.triton") as caught:
        Settings.model_validate({"servers": {"triton": entry}})
    assert says in str(caught.value)


async def test_a_failure_without_a_text_is_told_by_its_status(server: FakeV2) -> None:
    """MLServer answers its own failures with a trace, which is for nobody outside."""
    backend = client(server, "rest")
    for body in (b"Traceback (most recent call last)", b"[]", b'{"error": 5}', failure(500, "x")[2]):
        answer: Callable[[bytes], Any] = lambda blob, body=body: (500, {}, body)  # noqa: E731
        server.rest = answer
        with pytest.raises(errors.Internal) as caught:
            await backend.infer(asking())
        assert caught.value.message in ("the v2 server: status 500", "the v2 server: x")
    await backend.aclose()
