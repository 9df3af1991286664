"""grpc.health.v1, and the profiler's service beside it. Runs as well against the real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import wrappers_pb2
from tensorflow.python.profiler import profiler_client
from tensorflow.tsl.profiler.protobuf import xplane_pb2
from tensorflow_serving.apis import classification_pb2

from serving.embedded import protos
from tests.serving.embedded import savedmodels
from tests.serving.embedded.process import Server
from tests.serving.embedded.test_grpc import TIMEOUT, X, examples, spec
from tests.serving.embedded.test_grpc import request as asked

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
#: More watchers than the server has threads.
WATCHERS = 40
CODERS = {
    "request_serializer": lambda name: wrappers_pb2.StringValue(value=name).SerializeToString(),
    "response_deserializer": wrappers_pb2.Int32Value.FromString,
}


def watch(server: Server, name: str) -> grpc.Call:
    return server.channel.unary_stream("/grpc.health.v1.Health/Watch", **CODERS)(name, timeout=60)


def test_health_knows_the_services_by_their_short_names(server: Server) -> None:
    check = server.channel.unary_unary("/grpc.health.v1.Health/Check", **CODERS)
    assert [check(name).value for name in ("", "ModelService", "PredictionService")] == [SERVING] * 3
    with pytest.raises(grpc.RpcError) as caught:
        check("tensorflow.serving.ModelService")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_watchers_take_no_thread(server: Server) -> None:
    """However many there are, calls are answered; a name that is not known is watched too, and said to be so."""
    watchers = [watch(server, "ModelService") for _ in range(WATCHERS)]
    assert [next(watcher).value for watcher in watchers] == [SERVING] * WATCHERS
    assert next(watch(server, "nope")).value == SERVICE_UNKNOWN
    check = server.channel.unary_unary("/grpc.health.v1.Health/Check", **CODERS)
    assert check("", timeout=20).value == SERVING
    for watcher in watchers:
        watcher.cancel()


def profile(server: Server, method: str, request: object) -> bytes:
    call = server.channel.unary_unary(f"/tensorflow.ProfilerService/{method}")
    return bytes(call(request.SerializeToString(), timeout=60))  # type: ignore[attr-defined]


def test_the_profiler_writes_a_trace_where_the_request_says(server: Server, tmp_path: Path) -> None:
    """The answer is what TensorFlow's own server gives where nothing runs: an empty trace, Monitor unimplemented."""
    request = protos.message("ProfileRequest")
    request.opts.host_tracer_level, request.opts.duration_ms = 2, 50  # type: ignore[attr-defined]
    for field, value in (("repository_root", str(tmp_path)), ("session_id", "s"), ("host_name", "h")):
        setattr(request, field, value)
    assert profile(server, "Profile", request) == b"8\x01"
    assert (tmp_path / "s" / "h.xplane.pb").stat().st_size > 0
    assert profile(server, "Terminate", protos.message("TerminateRequest")) == b""
    with pytest.raises(grpc.RpcError) as caught:
        profile(server, "Monitor", request)
    assert (caught.value.code().name, caught.value.details()) == ("UNIMPLEMENTED", "unimplemented.")


@pytest.fixture(params=["predict", "classify", "slow"])
def busy(request: pytest.FixtureRequest, server: Server) -> Iterator[None]:
    """Predictions that go on: on the server's loop, in a thread, in a thread with a loop in the graph."""
    calls: dict[str, Callable[[], Any]] = {
        "predict": lambda: server.prediction.Predict(asked(spec(), X), TIMEOUT),
        "classify": lambda: server.prediction.Classify(
            classification_pb2.ClassificationRequest(
                model_spec=spec(signature_name="classify_x_to_y"), input=examples(1)
            ),
            TIMEOUT,
        ),
        "slow": lambda: server.prediction.Predict(asked(spec("slow"), {"n": np.int32(2)}), TIMEOUT),
    }
    ended = threading.Event()

    def keep_asking() -> None:
        while not ended.wait(0.01):
            calls[request.param]()

    thread = threading.Thread(target=keep_asking)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_tensorflows_profiler_client_reads_a_trace(server: Server, busy: None, tmp_path: Path) -> None:
    """As TensorFlow Serving's own test asks for one, while predictions are made. It is what TensorBoard reads."""
    profiler_client.trace(f"localhost:{server.port}", str(tmp_path), 300, "", 5)
    (written,) = tmp_path.rglob("*.xplane.pb")
    assert written.name == f"localhost_{server.port}.xplane.pb"
    (host,) = (
        plane for plane in xplane_pb2.XSpace.FromString(written.read_bytes()).planes if plane.name == "/host:CPU"
    )
    named = {host.event_metadata[event.metadata_id].name for line in host.lines for event in line.events}
    assert any(name.startswith("SessionRun") for name in named)


def test_where_nothing_runs_the_profiler_client_is_told_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No trace event was collected"):
        profiler_client.trace(f"localhost:{server.port}", str(tmp_path), 20, "", 1)


def test_a_stop_is_told_to_watchers_and_a_switched_off_profiler_is_not_there(tmp_path: Path, command: str) -> None:
    model = savedmodels.save(tmp_path / "m" / "1", savedmodels.half_plus(2)).parent
    flags = [f"--model_base_path={model}", "--enable_grpc_healthcheck_service=true", "--enable_profiler=false"]
    server = Server(tmp_path, flags, command=command)
    try:
        server.ready()
        with pytest.raises(grpc.RpcError) as caught:
            profile(server, "Terminate", protos.message("TerminateRequest"))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        watcher = watch(server, "PredictionService")
        assert next(watcher).value == SERVING
        server.process.terminate()
        assert next(watcher).value == NOT_SERVING
        assert server.ended(20) == 0
    finally:
        server.close()
