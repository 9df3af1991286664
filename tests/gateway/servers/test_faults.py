"""Every row of the table: by its example, and over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from grpc import StatusCode

from gateway import errors
from gateway.servers.base import Server, ServerAddress
from gateway.servers.faults import MODEL, Faults, Lost, Row, Signal
from gateway.servers.http import HttpPool
from gateway.servers.kinds import SERVERS
from gateway.servers.tfserving.client import TFServing
from gateway.servers.tfserving.faults import TFSERVING
from gateway.servers.torchserve.client import TorchServe
from gateway.servers.torchserve.faults import TORCHSERVE
from gateway.servers.v2.faults import V2
from gateway.servers.v2.kind import V2Kind
from gateway.servers.v2.settings import V2Settings
from gateway.types import InferRequest, Tensor
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.fakes.v2 import FakeV2
from tests.fakes.v2 import failure as v2_failure

pytestmark = pytest.mark.anyio

REQUEST = InferRequest("m", (Tensor("x", "FP32", np.array([[1.5]], np.float32)),), version=1)
ROW = (errors.Internal, "", MODEL)
HANDLER = "InternalServerException"
NO_WORKER = 'Model "m" has no worker to serve inference request. Please use scale workers API to add workers.'
REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:8500: Connection refused"
NOT_FOUND = "Request for unknown model: 'm'"
NO_VERSIONS = f"{NOT_FOUND} has no available versions"
FULL_ID = "[request id: <id_unknown>] Exceeds maximum queue size"
STUB = "Failed to process the request(s) for model 'm_0_0', message: Stub process 'm_0_0' is not healthy."
FULL = "The batch scheduling queue to which this task was submitted is full; currently 10 batches enqueued"


@dataclass(frozen=True)
class Case:
    """What a server says, and what is made of it: our error, may it be sent again, does it count against the endpoint.

    ``says`` is what the client is told, or a part of it.
    """

    server: Faults
    signal: Signal
    kind: str
    text: str
    error: type[errors.DuetError]
    retry_safe: bool
    counts: bool
    says: str = ""
    describing: bool = False

    def __str__(self) -> str:
        name = self.signal if isinstance(self.signal, int) else self.signal.name
        return f"{self.server.server} {name} {self.kind} {self.text[:24]}".replace(" ", "-")

    @property
    def row(self) -> Row:
        return self.server.row(self.signal, self.text, self.kind, describing=self.describing)


_DESCRIBED = "Model not found: m"

CASES = [
    Case(TORCHSERVE, Lost.CONNECT, "", "", errors.Unavailable, True, True, "TorchServe cannot be reached"),
    Case(TORCHSERVE, Lost.CONNECT_LATE, "", "", errors.Unavailable, True, True, "TorchServe cannot be reached"),
    Case(TORCHSERVE, Lost.CLOSED, "", "", errors.Unavailable, True, True, "without an answer"),
    Case(TORCHSERVE, Lost.BROKEN, "", "", errors.DataLoss, True, True, "broke off"),
    Case(TORCHSERVE, Lost.UNREADABLE, "", "bad", errors.DataLoss, True, True, "no valid answer: bad"),
    Case(TORCHSERVE, Lost.TOO_LONG, "", "9", errors.PayloadTooLarge, False, False, "more than 9 bytes"),
    Case(TORCHSERVE, 404, "ModelNotFoundException", _DESCRIBED, errors.NotFound, False, False, _DESCRIBED, True),
    Case(TORCHSERVE, 404, "ModelVersionNotFoundException", "...", errors.Unavailable, True, False, "try again"),
    Case(TORCHSERVE, 400, "InvalidKeyException", "Token ...", errors.Unavailable, True, True, "token"),
    Case(TORCHSERVE, 503, "ServiceUnavailableException", NO_WORKER, errors.ResourceExhausted, False, False, "worker"),
    Case(TORCHSERVE, 500, HANDLER, "Worker died.", errors.Unavailable, True, True, "died"),
    Case(TORCHSERVE, 413, "", "", errors.PayloadTooLarge, False, False, "larger than TorchServe takes"),
    Case(TORCHSERVE, 507, HANDLER, "Response is too large", errors.PayloadTooLarge, False, False, "larger"),
    Case(TORCHSERVE, 507, HANDLER, "Out of resources", errors.Unavailable, True, True, "died"),
    Case(TORCHSERVE, 408, "RequestTimeoutException", "", errors.DeadlineExceeded, False, True, "gave the request up"),
    Case(TORCHSERVE, 400, HANDLER, "x: bad shape", errors.InvalidArgument, False, False, "x: bad shape"),
    Case(TORCHSERVE, 401, HANDLER, "who?", errors.Unauthenticated, False, False, "who?"),
    Case(TORCHSERVE, 403, HANDLER, "not you", errors.PermissionDenied, False, False, "not you"),
    Case(TORCHSERVE, 404, HANDLER, "no such user", errors.NotFound, False, False, "no such user"),
    Case(TORCHSERVE, 409, HANDLER, "not yet", errors.FailedPrecondition, False, False, "not yet"),
    Case(TORCHSERVE, 422, HANDLER, "a cat", errors.InvalidArgument, False, False, "a cat"),
    Case(TORCHSERVE, 429, HANDLER, "slow down", errors.ResourceExhausted, False, False, "slow down"),
    Case(TORCHSERVE, 501, HANDLER, "not here", errors.Unimplemented, False, False, "not here"),
    Case(TORCHSERVE, 504, HANDLER, "gave up", errors.DeadlineExceeded, False, False, "gave up"),
    Case(TORCHSERVE, 502, "", "", errors.Unavailable, True, True, "cannot be reached"),
    Case(TORCHSERVE, 503, "", "", errors.Unavailable, True, True, "cannot be reached"),
    Case(TORCHSERVE, 504, "", "", errors.Unavailable, True, True, "cannot be reached"),
    Case(TORCHSERVE, 503, HANDLER, "Prediction failed", errors.Internal, False, False, "handler"),
    Case(TFSERVING, StatusCode.UNAVAILABLE, "", FULL, errors.ResourceExhausted, False, False, "queue"),
    Case(TFSERVING, StatusCode.UNAVAILABLE, "", REFUSED, errors.Unavailable, True, True, "cannot be reached"),
    Case(TFSERVING, StatusCode.UNAVAILABLE, "", "Socket closed", errors.Unavailable, True, True, "cannot be reached"),
    Case(TFSERVING, StatusCode.CANCELLED, "", "CANCELLED", errors.Unavailable, True, True, "gave the call up"),
    Case(TFSERVING, StatusCode.INTERNAL, "", "Received RST_STREAM with error code 2", errors.Unavailable, True, True),
    Case(TFSERVING, StatusCode.INTERNAL, "", "cuDNN launch failure", errors.Unavailable, True, True, "accelerator"),
    Case(
        TFSERVING,
        StatusCode.RESOURCE_EXHAUSTED,
        "",
        "Stream removed (CLIENT: Received message larger than max (9 vs. 4))",
        errors.PayloadTooLarge,
        False,
        False,
    ),
    Case(
        TFSERVING,
        StatusCode.RESOURCE_EXHAUSTED,
        "",
        "SERVER: Received message larger than max (9 vs. 4)",
        errors.PayloadTooLarge,
        False,
        False,
        "larger than TensorFlow Serving takes",
    ),
    Case(TFSERVING, StatusCode.RESOURCE_EXHAUSTED, "", "OOM when allocating", errors.ResourceExhausted, False, False),
    Case(TFSERVING, StatusCode.NOT_FOUND, "", "Could not find any", errors.NotFound, False, False, describing=True),
    Case(
        TFSERVING,
        StatusCode.NOT_FOUND,
        "",
        "Servable not found for request: Specific(m, 1)",
        errors.Unavailable,
        True,
        False,
        "try again",
    ),
    Case(TFSERVING, StatusCode.NOT_FOUND, "", "Table not found", errors.NotFound, False, False, "Table not found"),
    Case(TFSERVING, StatusCode.DEADLINE_EXCEEDED, "", "late", errors.DeadlineExceeded, False, True),
    Case(TFSERVING, StatusCode.INVALID_ARGUMENT, "", "Could not parse example", errors.InvalidArgument, False, False),
    Case(TFSERVING, StatusCode.OUT_OF_RANGE, "", "index 9", errors.InvalidArgument, False, False, "index 9"),
    Case(TFSERVING, StatusCode.FAILED_PRECONDITION, "", "not initialized", errors.FailedPrecondition, False, False),
    Case(TFSERVING, StatusCode.UNIMPLEMENTED, "", "no such op", errors.Unimplemented, False, False, "no such op"),
    Case(TFSERVING, StatusCode.DATA_LOSS, "", "truncated record", errors.DataLoss, False, False, "truncated record"),
    Case(TFSERVING, StatusCode.UNAUTHENTICATED, "", "who?", errors.Unavailable, True, True, "refuses the gateway"),
    Case(TFSERVING, StatusCode.PERMISSION_DENIED, "", "no", errors.Unavailable, True, True, "refuses the gateway"),
    Case(TFSERVING, StatusCode.INTERNAL, "", "assertion failed", errors.Internal, False, False, "assertion failed"),
    # Texts that Triton, KServe and MLServer were seen to say, or say in their sources.
    Case(V2, 404, "", f"{NOT_FOUND} is not found", errors.NotFound, False, False, "not found", describing=True),
    Case(V2, 503, "", f"{NOT_FOUND} has no available versions", errors.NotFound, False, False, describing=True),
    Case(V2, 404, "", "Model with name m does not exist.", errors.Unavailable, True, False, "try again"),
    Case(V2, 400, "", "Model m is not ready yet.", errors.Unavailable, True, False, "try again"),
    Case(V2, 503, "", f"{NOT_FOUND} version 1 is not at ready state", errors.Unavailable, True, False, "try again"),
    Case(V2, 503, "", "Exceeds maximum queue size", errors.ResourceExhausted, False, False, "queue"),
    Case(V2, 503, "", "Request timeout expired", errors.DeadlineExceeded, False, True, "gave the request up"),
    Case(V2, 500, "", STUB, errors.Unavailable, True, True, "died"),
    Case(V2, 400, "", "x must not begin with 13", errors.InvalidArgument, False, False, "13"),
    Case(V2, 422, "", "Input should be a valid list", errors.InvalidArgument, False, False, "valid list"),
    Case(V2, 401, "", "who?", errors.Unavailable, True, True, "refuses the gateway"),
    Case(V2, 403, "", "no", errors.Unavailable, True, True, "refuses the gateway"),
    Case(V2, 404, "", "no such user", errors.NotFound, False, False, "no such user"),
    Case(V2, 408, "", "late", errors.DeadlineExceeded, False, True, "gave the request up"),
    Case(V2, 413, "", "", errors.PayloadTooLarge, False, False, "larger than the v2 server takes"),
    Case(V2, 429, "", "slow down", errors.ResourceExhausted, False, False, "slow down"),
    Case(V2, 501, "", "Model versioning not supported yet.", errors.Unimplemented, False, False, "versioning"),
    Case(V2, 502, "", "", errors.Unavailable, True, True, "cannot be reached"),
    Case(V2, 503, "", "Server is not ready.", errors.Unavailable, True, True, "cannot be reached"),
    Case(V2, 504, "", "", errors.Unavailable, True, True, "cannot be reached"),
    Case(V2, 500, "", "RuntimeError : the model broke", errors.Internal, False, False, "the model broke"),
    Case(V2, StatusCode.NOT_FOUND, "", f"{NOT_FOUND} is not found", errors.NotFound, False, False, describing=True),
    Case(V2, StatusCode.UNAVAILABLE, "", NO_VERSIONS, errors.NotFound, False, False, describing=True),
    Case(V2, StatusCode.NOT_FOUND, "", "Model m with version 1 not found", errors.Unavailable, True, False, "again"),
    Case(V2, StatusCode.UNAVAILABLE, "", NO_VERSIONS, errors.Unavailable, True, False, "try again"),
    Case(V2, StatusCode.UNAVAILABLE, "", FULL_ID, errors.ResourceExhausted, False, False, "queue"),
    Case(V2, StatusCode.UNAVAILABLE, "", "Request timeout expired", errors.DeadlineExceeded, False, True, "gave"),
    Case(V2, StatusCode.INTERNAL, "", STUB, errors.Unavailable, True, True, "died"),
    Case(V2, StatusCode.RESOURCE_EXHAUSTED, "", "out of memory", errors.ResourceExhausted, False, False),
    Case(V2, StatusCode.NOT_FOUND, "", "no such user", errors.NotFound, False, False, "no such user"),
    Case(V2, StatusCode.DEADLINE_EXCEEDED, "", "Deadline Exceeded", errors.DeadlineExceeded, False, True),
    Case(V2, StatusCode.INVALID_ARGUMENT, "", "x must not", errors.InvalidArgument, False, False, "x must not"),
    Case(V2, StatusCode.OUT_OF_RANGE, "", "index 9", errors.InvalidArgument, False, False, "index 9"),
    Case(V2, StatusCode.FAILED_PRECONDITION, "", "not loaded", errors.FailedPrecondition, False, False),
    Case(V2, StatusCode.UNIMPLEMENTED, "", "no such op", errors.Unimplemented, False, False, "no such op"),
    Case(V2, StatusCode.DATA_LOSS, "", "truncated record", errors.DataLoss, False, False, "truncated record"),
    Case(V2, StatusCode.UNAUTHENTICATED, "", "who?", errors.Unavailable, True, True, "refuses the gateway"),
    Case(V2, StatusCode.PERMISSION_DENIED, "", "no", errors.Unavailable, True, True, "refuses the gateway"),
]

#: Every row of every kind's table once: some are shared.
TABLE = tuple({id(row): row for kind in SERVERS for row in kind.faults().rows}.values())


def check(error: errors.DuetError, case: Case) -> None:
    assert type(error) is case.error
    assert case.says in error.message
    assert error.fault is not None
    assert (error.fault.retry_safe, error.fault.counts) == (case.retry_safe, case.counts)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_says_what_the_client_is_told_and_what_layers_make_of_it(case: Case) -> None:
    check(case.server.translated(case.signal, case.text, case.kind, describing=case.describing), case)


def test_each_row_has_its_case_and_each_case_its_row() -> None:
    """A row that no case reaches is hidden by one before it."""
    found = [case.row for case in CASES]
    assert {id(entry) for entry in found} == {id(entry) for entry in TABLE}
    assert len(found) == len(TABLE)


def test_whoever_is_told_to_come_later_is_told_when() -> None:
    """429 and 503 are never bare; to send less is no matter of time."""
    for entry in TABLE:
        later = issubclass(entry.error, errors.Unavailable | errors.ResourceExhausted)
        told = entry.retry_after_seconds is not None
        assert told == (later and entry.error is not errors.PayloadTooLarge), entry


def test_what_is_overload_is_never_sent_again_nor_held_against_the_endpoint() -> None:
    for entry in TABLE:
        if issubclass(entry.error, errors.ResourceExhausted):
            assert (entry.fault.retry_safe, entry.fault.counts) == (False, False), entry


@pytest.fixture(scope="module")
def torchserve() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({"m": ["1"]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def v2() -> Iterator[FakeV2]:
    fake = FakeV2({"m": ["1"]})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def tfserving() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({"m": [1]})
    yield fake
    fake.close()


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.server is TORCHSERVE and isinstance(c.signal, int) and not c.describing],
    ids=str,
)
async def test_torchserves_errors_come_through_the_table(torchserve: FakeTorchServe, case: Case) -> None:
    answer = failure(int(case.signal), case.kind, case.text) if case.kind else (int(case.signal), {}, b"<html>")
    torchserve.answer = lambda: answer
    backend = TorchServe(torchserve.url, management=torchserve.url, variant="pytorch")
    with pytest.raises(errors.DuetError) as caught:
        await backend.infer(REQUEST)
    check(caught.value, case)
    await backend.aclose()


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.server is TFSERVING and isinstance(c.signal, StatusCode) and not c.describing],
    ids=str,
)
async def test_tensorflow_servings_errors_come_through_the_table(tfserving: FakeTFServing, case: Case) -> None:
    tfserving.failure = (case.signal, case.text)  # type: ignore[assignment]  # the list above has no other
    backend = TFServing(tfserving.endpoint, variant="tensorflow")
    with pytest.raises(errors.DuetError) as caught:
        await backend.infer(REQUEST)
    check(caught.value, case)
    tfserving.failure = None
    await backend.aclose()


@pytest.mark.parametrize("case", [c for c in CASES if c.server is V2 and not c.describing], ids=str)
async def test_a_v2_servers_errors_come_through_the_table(v2: FakeV2, case: Case) -> None:
    """Over the wire that the row is of."""
    over_rest = isinstance(case.signal, int)
    if isinstance(case.signal, StatusCode):
        said = (case.signal, case.text)
        v2.grpc = lambda blob: said
    else:
        answer = v2_failure(int(case.signal), case.text)  # type: ignore[arg-type]  # there is no other
        v2.rest = lambda blob: answer
    settings = V2Settings(kind="v2", endpoint=v2.http_endpoint if over_rest else v2.grpc_endpoint)
    backend = V2Kind().connect(settings, ServerAddress("triton", settings.host, settings.port))
    with pytest.raises(errors.DuetError) as caught:
        await backend.infer(REQUEST)
    check(caught.value, case)
    await backend.aclose()


def test_a_table_that_does_not_end_in_a_row_for_everything_is_refused() -> None:
    """Whatever a server says, there is a row for it: of a new kind too."""
    last = Row(None, errors.Internal, "{text}", MODEL)
    assert Faults("new", (last,)).row(599, "?") is last
    ends: list[tuple[Row, ...]] = [(), (Row(500, errors.Internal, "", MODEL),), (last, Row(None, *ROW, kind=""))]
    ends += [(Row(None, *ROW, text="^a"),), (Row(None, *ROW, describing=False),)]
    for rows in ends:
        with pytest.raises(ValueError, match="the last row of the faults of new must fit everything"):
            Faults("new", rows)


@pytest.mark.parametrize("raw", [b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f"])
async def test_an_answer_of_tensorflow_serving_that_is_no_message_is_corrupt(
    tfserving: FakeTFServing, raw: bytes
) -> None:
    tfserving.raw_answer = raw
    backend = TFServing(tfserving.endpoint, variant="tensorflow")
    with pytest.raises(errors.DataLoss) as caught:
        await backend.infer(REQUEST)
    assert caught.value.fault is not None
    assert caught.value.fault.name == "corrupt"
    tfserving.raw_answer = None
    await backend.aclose()


async def test_an_answer_of_tensorflow_serving_that_is_too_large_is_no_fault_of_the_endpoint(
    tfserving: FakeTFServing,
) -> None:
    tfserving.raw_answer = b"\x0a" + bytes([0x80, 0x80, 0x80, 0x20]) + bytes(65 << 20)
    backend = TFServing(tfserving.endpoint, variant="tensorflow")
    with pytest.raises(errors.PayloadTooLarge, match="larger than the gateway takes") as caught:
        await backend.infer(REQUEST)
    assert caught.value.fault is not None
    assert not caught.value.fault.counts
    tfserving.raw_answer = None
    await backend.aclose()


@pytest.mark.parametrize("server", [TORCHSERVE, TFSERVING, V2], ids=lambda faults: faults.server)
async def test_a_server_that_does_not_listen_is_unreachable(server: Faults, free_tcp_port: int) -> None:
    backend: Server
    if server is V2:
        settings = V2Settings(kind="v2", endpoint=f"grpc://127.0.0.1:{free_tcp_port}")
        backend = V2Kind().connect(settings, ServerAddress("triton", settings.host, settings.port))
    elif server is TORCHSERVE:
        url = f"http://127.0.0.1:{free_tcp_port}"
        backend = TorchServe(url, management=url, variant="pytorch")
    else:
        backend = TFServing(f"127.0.0.1:{free_tcp_port}", variant="tensorflow")
    with pytest.raises(errors.Unavailable, match=f"^{server.server} cannot be reached$") as caught:
        await backend.infer(REQUEST)
    assert caught.value.fault is not None
    assert caught.value.fault.unreachable
    await backend.aclose()


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that reads a request, sends ``answer`` and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "signal"),
    [
        (b"", Lost.CLOSED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Lost.BROKEN),
        (b"\x00\x01\x02\x03\r\n\r\n", Lost.UNREADABLE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b"a" * 99, Lost.TOO_LONG),
    ],
    ids=["closed", "broken", "unreadable", "too long"],
)
async def test_lost_answers_come_through_the_table(answer: bytes, signal: Lost) -> None:
    async with answering(answer) as url:
        pool = HttpPool(url, faults=TORCHSERVE, max_response_bytes=50)
        with pytest.raises(errors.DuetError) as caught:
            await pool.request("GET", "/")
        assert caught.value.fault == TORCHSERVE.row(signal).fault
        await pool.aclose()


async def test_an_answer_that_is_no_tensor_is_corrupt(torchserve: FakeTorchServe) -> None:
    torchserve.answer = lambda: (200, {}, b"<html>")
    backend = TorchServe(torchserve.url, management=torchserve.url, variant="pytorch")
    with pytest.raises(errors.DataLoss, match="not valid") as caught:
        await backend.infer(REQUEST)
    assert caught.value.fault is not None
    assert caught.value.fault.retry_safe
    await backend.aclose()
