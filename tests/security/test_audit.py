"""What is written down of each decision, and what never is."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, Counter

from gateway.logging import LineWriter
from gateway.observation import Observation
from gateway.security.access import NOBODY, Access
from gateway.security.audit import Decisions, QueuedAudit
from tests.fakes.tfserving import FakeTFServing
from tests.gateway.conftest import RunningGateway, wait_for
from tests.security import issuer
from tests.security.doors import METADATA, PREDICT, STREAMS, KeyFolder, forged, infer

Start = Callable[[dict[str, Any]], RunningGateway]


def dropped() -> Counter:
    return Counter("dropped", "x", registry=CollectorRegistry())


def count(counter: Counter) -> float:
    (metric,) = counter.collect()
    return metric.samples[0].value


ACCESS, REQUEST = Access(NOBODY, model="m"), Observation("id", "trace", 0.0, "front", "m", "variant", "1")


def test_lines_are_json_objects_with_their_time(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    with path.open("ab") as stream:
        audit = QueuedAudit(LineWriter(stream), dropped=dropped())
    for number in range(100):
        audit.write(Access(NOBODY, elements=number), REQUEST, 0.001)
    audit.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["elements"] for line in lines] == list(range(100))
    assert all(line["time"] > 1.7e9 for line in lines)


def test_who_cannot_be_written_to_holds_nobody_up_and_what_is_lost_is_counted() -> None:
    """A pipe that nobody reads takes 64 KB; the queue takes 100 lines; all that comes then is counted."""
    reading, writing = os.pipe()
    lost = dropped()
    with os.fdopen(writing, "wb") as pipe:
        audit = QueuedAudit(LineWriter(pipe, max_lines=100), dropped=lost)
    finished = threading.Event()

    def write() -> None:
        audit.write(ACCESS, replace(REQUEST, front="x" * 100_000), 0.001)
        wait_for(lambda: not audit._writer._lines, "the first line to be on its way")
        for _ in range(500):
            audit.write(ACCESS, REQUEST, 0.001)
        finished.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert finished.wait(10)
    writer.join()
    assert count(lost) == 400
    with os.fdopen(reading, "rb") as stream:
        ending = threading.Thread(target=audit.close)
        ending.start()
        *lines, last = stream.read().splitlines()
        assert len(lines) == 101
        assert json.loads(last) == {"dropped_lines": 400}
        ending.join()


ODD = (
    "a\nb",
    "a\r\n{}",
    "\u2028",
    "\u2029",
    "\x85",
    "\x1b[2J",
    "\x00",
    "a" * 1000,
    "\N{RIGHT-TO-LEFT OVERRIDE}x",
    "\\n",
)


@pytest.mark.parametrize("text", ODD)
def test_nothing_that_a_client_wrote_can_end_a_line(text: str, tmp_path: Path) -> None:
    """Not for a reader of JSON, nor for one who splits at whatever Unicode takes for a line's end."""
    path = tmp_path / "audit"
    with path.open("ab") as stream:
        audit = QueuedAudit(LineWriter(stream), dropped=dropped())
    Decisions(audit, registry=CollectorRegistry()).note(Access(NOBODY, model=text), REQUEST, 0.001)
    audit.close()
    written = path.read_text()
    assert len(written.splitlines()) == 1
    model = json.loads(written)["model"]
    assert model.isascii()
    assert model.isprintable()
    assert len(model) <= 64 * 10


CANARY = "canary7d1f"


@pytest.fixture
def server() -> Any:
    fake = FakeTFServing({"m": [1], "secret": [1]})
    yield fake
    fake.close()


def start(gateway_with: Start, server: FakeTFServing, auth: dict[str, Any]) -> RunningGateway:
    gateway = gateway_with(
        {
            "servers": {"t": {"kind": "tfserving", "endpoint": server.endpoint}},
            "models": {"m": {}, "secret": {}},
            "auth": auth,
            "log": {"level": "debug"},
        }
    )
    gateway.wait_until("/v2/health/ready", 200)
    return gateway


def test_each_decision_leaves_one_line(tmp_path: Path, gateway_with: Start, server: FakeTFServing) -> None:
    """In a file that only its owner can read, over REST and gRPC and for each message of a stream."""
    folder, audit = KeyFolder(tmp_path / "keys"), tmp_path / "audit.log"
    folder.folder.mkdir()
    key = folder.make("alice", "predict:m")
    shown = {"x-api-key": key}
    gateway = start(gateway_with, server, {**folder.settings, "audit": {"file": str(audit)}})
    asked = [
        (PREDICT["v2 REST"], "m", shown, "allowed", "predict"),
        (PREDICT["v2 gRPC"], "m", shown, "allowed", "predict"),
        (PREDICT["v2 REST"], "secret", shown, "not_granted", "predict"),
        (METADATA["TF Serving gRPC, metadata"], "m", shown, "not_granted", "metadata"),
        (STREAMS["v2 gRPC, stream"], "m", shown, "allowed", "predict"),
        (STREAMS["v2 gRPC, stream"], "secret", shown, "not_granted", "predict"),
        (PREDICT["TorchServe REST"], "m", {"x-api-key": forged()}, "unauthenticated", "metadata"),
        (PREDICT["TorchServe gRPC"], "m", {}, "unauthenticated", "metadata"),
    ]
    for ask, model, given, _, _ in asked:
        ask(gateway, model, given)
    # Over gRPC: a path with a line feed in it is refused before it is anybody's.
    METADATA["TF Serving gRPC, metadata"](gateway, 'm\n{"audit":"allowed"}', shown)
    counted = 'duet_access_total{means="key",verdict="not_granted"} 4.0'
    wait_for(lambda: counted in gateway.admin.get("/metrics").text, "the last refusal to be counted")
    metrics = gateway.admin.get("/metrics").text
    gateway.stop()

    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    expected = [(verdict, verb) for *_, verdict, verb in asked]
    # A refusal over gRPC is written when its call has ended, which its caller need not wait for.
    assert sorted((line["audit"], line["verb"]) for line in lines if "{" not in line["model"]) == sorted(expected)
    assert audit.stat().st_mode & 0o077 == 0
    (allowed,) = (line for line in lines if (line["front"], line["audit"]) == ("v2_rest", "allowed"))
    sizes = {line["bytes_in"] for line in lines if (line["front"], line["audit"]) == ("v2_grpc", "allowed")}
    (odd,) = (line for line in lines if "{" in line["model"])
    assert (allowed["who"], allowed["id"], allowed["model"]) == ("alice", f"key:{key[3:11]}", "m")
    assert (allowed["variant"], allowed["version"], allowed["code"], allowed["elements"]) == ("t", "1", "OK", 1)
    assert allowed["bytes_in"] > 50
    assert allowed["bytes_out"] > 50
    assert allowed["ms"] > 0
    assert sizes == {len(infer("m").SerializeToString())}
    assert odd["model"].startswith("m\\n{")
    for verdict, times in (("allowed", 3), ("not_granted", 4)):
        assert f'duet_access_total{{means="key",verdict="{verdict}"}} {times}.0' in metrics
    assert 'duet_access_total{means="none",verdict="unauthenticated"} 2.0' in metrics


def test_canaries_are_found_nowhere(tmp_path: Path, gateway_with: Start, server: FakeTFServing) -> None:
    """In payloads, headers, keys and tokens, good and bad; looked for in logs, audit, metrics and all answers.

    At the level debug. One answer may quote a payload to who sent it: TensorFlow Serving's REST, in its own words
    for a value of the wrong type.
    """
    folder, keys = KeyFolder(tmp_path / "keys"), tmp_path / "jwks.json"
    folder.folder.mkdir()
    keys.write_bytes(issuer.jwks())
    key = folder.make("alice", "predict,metadata:*")
    tokens = {"issuer": issuer.ISSUER, "audience": issuer.AUDIENCE, "jwks": str(keys)}
    auth = {**folder.settings, "tokens": tokens, "callers": [{"token": "*", "grants": ["predict:*"]}]}
    gateway = start(gateway_with, server, auth)
    wrong = f"gw_00000000_{CANARY}{'a' * 33}"
    token = issuer.token(exp=4_000_000_000, iat=1, sub="bob", private_claim=CANARY)
    shown: list[dict[str, str]] = [
        {"x-api-key": key, "x-canary": CANARY, "cookie": f"a={CANARY}"},
        {"authorization": f"Bearer {token}"},
        {"authorization": f"Bearer {wrong}"},
        {"authorization": f"Bearer {token[:-4]}AAAA"},
        {"authorization": f"Basic {base64.b64encode(CANARY.encode()).decode()}"},
        {"x-api-key": CANARY},
    ]
    seen: list[str] = []
    bodies = (
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [CANARY]}]},
        {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [CANARY]}]},
        {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}], "id": "1"},
    )
    for headers in shown:
        for body in bodies:
            for path in ("/v2/models/m/infer", "/v1/models/m:predict", "/predictions/m"):
                answer = gateway.client.post(path, json=body, headers=headers)
                quoted = path.startswith("/v1/") and answer.status_code == 400
                seen += ["" if quoted else answer.text, str(answer.headers)]
                assert key not in answer.text
            answer = gateway.client.post("/v2/models/m/infer", content=json.dumps(body)[:-9] + CANARY, headers=headers)
            seen += [answer.text, str(answer.headers)]
        for ask in PREDICT.values():
            outcome = ask(gateway, "m", headers)
            seen += [outcome.text, str(outcome.headers)]
        with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError) as caught:
                call(CANARY.encode(), timeout=10, metadata=tuple(headers.items()))
            seen.append(str(caught.value.details()))
    metrics = gateway.admin.get("/metrics").text
    gateway.stop()
    log = gateway.log.read_text()
    assert '"audit":"allowed"' in log
    assert '"audit":"unauthenticated"' in log
    secrets = [CANARY, base64.b64encode(CANARY.encode()).decode(), key, key.split("_", 2)[2], token, wrong]
    secrets += [token.split(".")[2], token.split(".")[1]]
    for place, text in {"log": log, "metrics": metrics, "answers": "\n".join(seen)}.items():
        assert not [line for line in text.splitlines() if any(secret in line for secret in secrets)], place
