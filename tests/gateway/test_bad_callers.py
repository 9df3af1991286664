"""A bad caller beside good ones, for each row of the table of faults.

The kind: whatever a request can make a server do, it is that request's failure. A caller that repeats it costs no other
caller an answer: no endpoint is taken out, no limit is lowered, and those whose requests were joined with it are asked
without it. The bad caller's requests hold `POISON`; the server meets them with the row's signal, on a real socket, and
answers all others.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from grpc import StatusCode

from gateway.errors import CORRUPT
from gateway.protos import tfserving_pb2 as pb
from gateway.servers.faults import Lost, Row
from gateway.servers.v2.faults import V2
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.fakes.v2 import FakeV2
from tests.fakes.v2 import failure as v2_failure
from tests.gateway.conftest import RunningGateway, start_gateway
from tests.gateway.servers.test_faults import CASES, TABLE, Case

pytestmark = pytest.mark.anyio

POISON = 666.0
#: To make one for each client takes longer than all that it sends.
UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
#: How often the bad caller comes at once: more often than failures in a row take an endpoint out.
BAD = 6
GOOD = 3
#: A model for each row, so that no row profits from what another has cleared. Joined: one call in flight for all.
ALONE, JOINED = "alone", "joined"
OFF, JOINS = {"enabled": False}, {"in_flight": 1}
#: What comes before any request, with the reason why none can bring it about.
BEFORE_ANY_REQUEST: dict[tuple[Any, str | None], str] = {
    (Lost.CONNECT, None): "the connection is refused",
    (Lost.CONNECT_LATE, None): "the connection is not made",
    (400, "InvalidKeyException"): "TorchServe looks at the token first; of an opaque handler's own answer see below",
    (StatusCode.UNAVAILABLE, None): "gRPC core's own words, in which nothing is quoted, for a connection not made",
}


def is_before_any_request(entry: Row) -> bool:
    """The registry's own calls too: ``describing``."""
    unreachable = (entry.signal, entry.kind) in BEFORE_ANY_REQUEST and (
        entry.fault.unreachable or entry.signal in (Lost.CONNECT, Lost.CONNECT_LATE)
    )
    return bool(entry.describing) or unreachable


#: Of the joined plays, those that `make test` keeps of failures that never count.
_OFTEN = (501, 507, Lost.TOO_LONG, StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNIMPLEMENTED)


def said(request: pb.PredictRequest, dtype: int, *shape: int, **content: Any) -> pb.PredictResponse:
    """An answer of TensorFlow Serving with this as its output."""
    tensor = pb.TensorProto(**content)
    tensor.MergeFromString(b"\x08" + bytes([dtype]))  # any dtype: field 1, a varint
    tensor.tensor_shape.CopyFrom(pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in shape]))
    return pb.PredictResponse(outputs={"y": tensor}, model_spec=request.model_spec)


def slow(request: pb.PredictRequest) -> None:
    """A large and legal one: it takes longer than its caller has, and than the server may."""
    time.sleep(0.4)


#: What else a request can make TensorFlow Serving say, with the status and a part of the text for its caller. Texts
#: quote the request, as errors of a model do.
EXTRA: dict[str, tuple[Callable[[pb.PredictRequest], Any], int, str]] = {
    "late": (slow, 504, "eadline"),
    "undeclared size": (
        lambda r: said(r, pb.DT_FLOAT, 1, 3, float_val=[1, 2, 3]),
        400,
        "output 'y': the model declares FP32 [-1, 1] and gave FP32 [1, 3]; import or export",
    ),
    "undeclared rank": (lambda r: said(r, pb.DT_FLOAT, 1, float_val=[1]), 400, "and gave FP32 [1];"),
    "undeclared scalar": (lambda r: said(r, pb.DT_FLOAT, float_val=[1]), 400, "and gave FP32 [];"),
    "undeclared datatype": (lambda r: said(r, pb.DT_INT64, 1, 1, int64_val=[1]), 400, "and gave INT64 [1, 1];"),
    "complex64": (lambda r: said(r, 8, 1, 1, tensor_content=bytes(8)), 501, "'y' is COMPLEX64"),
    "complex128": (lambda r: said(r, 18, 1, 1, tensor_content=bytes(16)), 501, "'y' is COMPLEX128"),
    "qint8": (lambda r: said(r, 11, 1, 1, tensor_content=b"1"), 501, "'y' is QINT8"),
    "resource": (lambda r: said(r, 20, 1, 1), 501, "'y' is RESOURCE"),
    "variant": (lambda r: said(r, 21, 1, 1), 501, "'y' is VARIANT"),
    "33 dimensions": (lambda r: said(r, pb.DT_FLOAT, *[1] * 33, float_val=[1]), 501, "33 dimensions"),
    "quoted device": (lambda r: (StatusCode.INTERNAL, "not a colour: 'CUDA error on GPU:0'"), 500, "not a colour"),
    "quoted reset": (lambda r: (StatusCode.INTERNAL, "not a colour: 'RST_STREAM'"), 500, "not a colour"),
    "quoted queue": (lambda r: (StatusCode.UNAVAILABLE, "no table 'queue x is full'"), 503, "cannot be reached"),
    "quoted connection": (
        lambda r: (StatusCode.UNAVAILABLE, "no table 'failed to connect to all addresses'"),
        503,
        "cannot be reached",
    ),
    "file named as a servable": (
        lambda r: (StatusCode.NOT_FOUND, "Servable not found for request: Latest(m); No such file or directory"),
        404,
        "No such file",
    ),
}
ROWS = [index for index, entry in enumerate(TABLE) if not is_before_any_request(entry)]

NAMES = [*(f"row{index}" for index in ROWS), *(f"extra{index}" for index in range(len(EXTRA)))]
MODELS = [f"{name}-{how}" for name in NAMES for how in (ALONE, JOINED)]


def case_of(entry: Row) -> Case:
    """The example of a row in `CASES`. A row without one fails here."""
    found = [case for case in CASES if case.row is entry]
    assert found, f"{entry} has no case in tests/gateway/servers/test_faults.py"
    return found[0]


def is_bad(values: bytes) -> bool:
    return POISON in struct.unpack(f"<{len(values) // 4}f", values)


@pytest.mark.parametrize("name", EXTRA)
async def test_what_no_row_names_costs_no_other_caller_an_answer_either(
    gateway: RunningGateway, tensorflow: FakeTFServing, name: str
) -> None:
    """An answer that cannot be told, or that the model did not declare; a text that quotes the request; lateness.

    Joined with good ones, so that both the batch and the endpoint are looked at.
    """
    meets, status, text = EXTRA[name]
    tensorflow.poison = lambda request: meets(request) if is_bad(request.inputs["x"].tensor_content) else None
    how = ALONE if name == "late" else JOINED
    callers = Callers(gateway, f"extra{list(EXTRA).index(name)}-{how}@tensorflow")
    await callers.together(**({"x-duet-timeout-ms": "300"} if name == "late" else {}))
    assert {answer.status_code for answer in callers.refused} == {status}
    assert all(text in answer.json()["error"] for answer in callers.refused)
    callers.nobody_is_out(overload=name == "late")


@pytest.fixture(scope="module")
def tensorflow() -> Iterator[FakeTFServing]:
    fake = FakeTFServing({model: [1] for model in MODELS})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def pytorch() -> Iterator[FakeTorchServe]:
    fake = FakeTorchServe({model: ["1"] for model in MODELS})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeV2]:
    fake = FakeV2({model: ["1"] for model in MODELS})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def gateway(
    tensorflow: FakeTFServing, pytorch: FakeTorchServe, triton: FakeV2, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
            "rest": {"kind": "v2", "endpoint": triton.http_endpoint},
            "grpc": {"kind": "v2", "endpoint": triton.grpc_endpoint},
        },
        "models": {model: {"batching": JOINS if model.endswith(JOINED) else OFF} for model in MODELS},
        "refresh_seconds": 30,
    }
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        running.wait_until("/v2/health/ready", 200)
        for variant in ("tensorflow", "pytorch", "rest", "grpc"):
            running.wait_until(f"/v2/models/{MODELS[-1]}@{variant}/ready", 200)
        yield running
    finally:
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()


class Callers:
    """Of one model: what they send, and what came of it."""

    def __init__(self, gateway: RunningGateway, model: str) -> None:
        self._gateway = gateway
        self._path = f"/v2/models/{model}/infer"
        self.model = model.partition("@")[0]
        self.refused: list[httpx.Response] = []
        self._out_before = self._out()

    async def good(self, client: httpx.AsyncClient, value: float) -> None:
        answer = await self._ask(client, value)
        assert answer.status_code == 200, f"lost: {answer.status_code} {answer.text}"
        assert answer.json()["outputs"][0]["data"] == [2 * value]

    async def bad(self, client: httpx.AsyncClient, **headers: str) -> None:
        answer = await self._ask(client, POISON, **headers)
        assert answer.status_code >= 400
        self.refused.append(answer)

    async def together(self, **headers: str) -> None:
        """First some good ones, then more bad ones in a row than an endpoint is allowed, then all mixed."""
        async with httpx.AsyncClient(base_url=self._gateway.url, timeout=20, verify=UNUSED) as client:
            for value in (1.0, 2.0):
                await self.good(client, value)
            # Two that meet, so that rows can be tried together where that is left to a trial.
            await asyncio.gather(*(self.good(client, float(value)) for value in range(3, 7)))
            await asyncio.gather(*(self.bad(client, **headers) for _ in range(BAD)))
            calls = [self.good(client, float(value)) for value in range(GOOD)]
            calls += [self.bad(client, **headers) for _ in range(BAD)]
            calls += [self.good(client, 10.0 + value) for value in range(GOOD)]
            await asyncio.gather(*calls)
            await self.good(client, 100.0)

    def _out(self) -> list[str]:
        """What is told of endpoints that were taken out."""
        metrics = self._gateway.admin.get("/metrics").text
        return re.findall(r"^duet_(?:ejections_total|ejected_endpoints)\{.*\} (?!0\.0).*$", metrics, re.MULTILINE)

    async def _ask(self, client: httpx.AsyncClient, value: float, **headers: str) -> httpx.Response:
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}
        return await client.post(self._path, json=body, headers=headers)

    def nobody_is_out(self, *, corrupt: bool = False, overload: bool = False) -> None:
        """No endpoint was taken out, the limit stands, and nothing counts as corrupt.

        Where the server says so, it is: ``corrupt`` for bytes that are no answer, ``overload`` for its full queue
        or a call that it has given up.
        """
        metrics = self._gateway.admin.get("/metrics").text
        out = re.findall(r"^duet_(?:ejections_total|ejected_endpoints)\{.*\} (?!0\.0).*$", metrics, re.MULTILINE)
        assert not out
        broken = re.findall(rf'^duet_server_faults_total\{{fault="corrupt",model="{self.model}".*$', metrics, re.M)
        assert bool(broken) == corrupt
        for server in self._gateway.admin.get("/admin/backends").json()["servers"].values():
            limit = server["limits"].get(self.model, {"limit": 1, "most": 1})
            assert limit["limit"] == limit["most"] or overload


def serve(case: Case, tensorflow: FakeTFServing, pytorch: FakeTorchServe, triton: FakeV2) -> str:
    """Has bad requests meet the case's signal; the variant to call."""
    if case.server is V2:
        return serve_v2(case, triton)
    if isinstance(case.signal, StatusCode):
        met = (case.signal, case.text)
        tensorflow.poison = lambda request: met if is_bad(request.inputs["x"].tensor_content) else None
        return "tensorflow"
    signals: dict[Any, Any] = {
        Lost.CLOSED: b"",
        Lost.BROKEN: b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\nabc",
        Lost.UNREADABLE: b"\x00\x01\x02\x03\r\n\r\n",
        Lost.TOO_LONG: b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nabc",
    }
    answer = signals.get(case.signal)
    if answer is None:
        status = int(case.signal)  # type: ignore[arg-type]
        answer = failure(status, case.kind, case.text) if case.kind else (status, {}, b"<html>")
    pytorch.poison = lambda blob: answer if is_bad(blob) else None
    return "pytorch"


def serve_v2(case: Case, triton: FakeV2) -> str:
    if isinstance(case.signal, StatusCode):
        said = (case.signal, case.text)
        triton.grpc = lambda blob: said if is_bad(blob) else None
        return "grpc"
    told = v2_failure(int(case.signal), case.text)  # type: ignore[arg-type]
    triton.rest = lambda blob: told if is_bad(blob) else None
    return "rest"


def plays() -> list[Any]:
    """Each row alone, and joined with good ones where it is said of one request and not of the server.

    Joined ones that never count against a server differ in nothing from one another: all but a few are long tests.
    """
    found = []
    for index in ROWS:
        fault, case = TABLE[index].fault, case_of(TABLE[index])
        name = str(case)
        # The faults of kind v2 that never count are those of the other two, under other words.
        long = [pytest.mark.full] if case.server is V2 and not fault.counts else []
        found.append(pytest.param(index, ALONE, id=f"{name}-{ALONE}", marks=long))
        often = fault.counts or TABLE[index].signal in _OFTEN
        marks = [] if often and case.server is not V2 else [pytest.mark.full]
        if fault.by_request:
            found.append(pytest.param(index, JOINED, id=f"{name}-{JOINED}", marks=marks))
    return found


@pytest.mark.parametrize(("index", "how"), plays())
async def test_a_bad_caller_costs_no_other_caller_an_answer(
    gateway: RunningGateway,
    tensorflow: FakeTFServing,
    pytorch: FakeTorchServe,
    triton: FakeV2,
    index: int,
    how: str,
) -> None:
    entry = TABLE[index]
    variant = serve(case_of(entry), tensorflow, pytorch, triton)
    callers = Callers(gateway, f"row{index}-{how}@{variant}")
    await callers.together()
    assert len(callers.refused) == 2 * BAD
    callers.nobody_is_out(corrupt=entry.fault == CORRUPT, overload=entry.fault.name in ("overload", "late"))


def test_each_row_is_played_or_comes_before_any_request() -> None:
    """What takes an endpoint out at once must be among the latter."""
    left = [entry for index, entry in enumerate(TABLE) if index not in ROWS]
    assert all(entry.describing or (entry.signal, entry.kind) in BEFORE_ANY_REQUEST for entry in left)
    assert all(entry in left for entry in TABLE if entry.fault.unreachable)
    assert len(left) == 6 + len(BEFORE_ANY_REQUEST)
