"""A bad caller beside good ones, for each row of the table of faults.

The kind: whatever a request can make a server do, it is that request's failure. A caller that repeats it costs no other
caller an answer: no endpoint is taken out, no limit is lowered, and those whose requests were joined with it are asked
without it. The bad caller's requests hold `POISON`; the server meets them with the row's signal, on a real socket, and
answers all others.
"""

from __future__ import annotations

import asyncio
import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from grpc import StatusCode

from gateway.backends.translation import TABLE, Lost, Row, row
from gateway.errors import CORRUPT
from gateway.protos import tfserving_pb2 as pb
from tests.fakes.tfserving import FakeTFServing
from tests.fakes.torchserve import FakeTorchServe, failure
from tests.gateway.backends.test_translation import CASES, Case
from tests.gateway.conftest import RunningGateway, start_gateway

pytestmark = pytest.mark.anyio

POISON = 666.0
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

EXTRA = (
    "late",
    "undeclared shape",
    "undeclared rank",
    "undeclared datatype",
    "scalar",
    "complex64",
    "complex128",
    "qint8",
    "resource",
    "variant",
    "quoted CUDA",
    "quoted servable",
    "quoted connection",
    "file not found",
)
ROWS = [index for index, entry in enumerate(TABLE) if not is_before_any_request(entry)]

NAMES = [*(f"row{index}" for index in ROWS), *(f"extra{index}" for index in range(len(EXTRA)))]
MODELS = [f"{name}-{how}" for name in NAMES for how in (ALONE, JOINED)]


def case_of(entry: Row) -> Case:
    """The example of a row in `CASES`. A row without one fails here."""
    found = [
        case
        for case in CASES
        if row(case.server, case.signal, case.text, case.kind, describing=case.describing) is entry
    ]
    assert found, f"{entry} has no case in tests/gateway/backends/test_translation.py"
    return found[0]


def is_bad(values: bytes) -> bool:
    return POISON in struct.unpack(f"<{len(values) // 4}f", values)


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
def gateway(
    tensorflow: FakeTFServing, pytorch: FakeTorchServe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    settings = {
        "servers": {
            "tensorflow": {"kind": "tfserving", "endpoint": tensorflow.endpoint},
            "pytorch": {"kind": "torchserve", "endpoint": pytorch.url, "management": pytorch.url},
        },
        "models": {model: {"batching": JOINS if model.endswith(JOINED) else OFF} for model in MODELS},
        "refresh_seconds": 30,
    }
    running = start_gateway(settings, tmp_path_factory.mktemp("gateway"))
    try:
        running.wait_until("/v2/health/ready", 200)
        for variant in ("tensorflow", "pytorch"):
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
        async with httpx.AsyncClient(base_url=self._gateway.url, timeout=20, verify=False) as client:
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


def serve(case: Case, tensorflow: FakeTFServing, pytorch: FakeTorchServe) -> str:
    """Has bad requests meet the case's signal; the variant to call."""
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


def plays() -> list[Any]:
    """Each row alone, and joined with good ones where it is said of one request and not of the server.

    Joined ones that never count against a server differ in nothing from one another: all but a few are long tests.
    """
    found = []
    for index in ROWS:
        fault, name = TABLE[index].fault, str(case_of(TABLE[index]))
        found.append(pytest.param(index, ALONE, id=f"{name}-{ALONE}"))
        marks = [] if fault.counts or TABLE[index].signal in _OFTEN else [pytest.mark.full]
        if fault.by_request:
            found.append(pytest.param(index, JOINED, id=f"{name}-{JOINED}", marks=marks))
    return found


@pytest.mark.parametrize(("index", "how"), plays())
async def test_a_bad_caller_costs_no_other_caller_an_answer(
    gateway: RunningGateway, tensorflow: FakeTFServing, pytorch: FakeTorchServe, index: int, how: str
) -> None:
    entry = TABLE[index]
    variant = serve(case_of(entry), tensorflow, pytorch)
    callers = Callers(gateway, f"row{index}-{how}@{variant}")
    await callers.together()
    assert len(callers.refused) == 2 * BAD
    callers.nobody_is_out(corrupt=entry.fault == CORRUPT, overload=entry.fault.name in ("overload", "late"))


def test_each_row_is_played_or_comes_before_any_request() -> None:
    """What takes an endpoint out at once must be among the latter."""
    left = [entry for index, entry in enumerate(TABLE) if index not in ROWS]
    assert all(entry.describing or (entry.signal, entry.kind) in BEFORE_ANY_REQUEST for entry in left)
    assert all(entry in left for entry in TABLE if entry.fault.unreachable)
    assert len(left) == 2 + len(BEFORE_ANY_REQUEST)
