"""What the embedded server costs, as ratios: ``python -m serving.embedded.bench [--seconds 1.0] [--rounds 5]``.

Each number is compared with a floor measured in the same run, in turns, so that a noisy machine touches both: the model
call with numpy on the same weights, the server with a bare gRPC echo server of the same payload.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from serving.embedded.flags import Flags

FEATURES, HIDDEN, CLASSES = 784, 128, 10
CALLERS, ROWS, MODELS, VERSIONS = 64, 32, 10, 2
PREDICT, ECHO = "/tensorflow.serving.PredictionService/Predict", "/echo.Echo/Echo"
Call = Callable[[bytes], bytes]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.embedded.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts")
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        return _echo()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), options.seconds, options.rounds)
    return 0


def _run(folder: Path, seconds: float, rounds: int) -> None:
    weights = _make_models(folder)
    _tell("model call, 1 row, against numpy", *_model_call(folder, weights, seconds, rounds), "below 4")
    servers = [_start([sys.executable, "-m", "serving.embedded.bench", "--echo"]), _start_server(folder)]
    try:
        ports = [_port(server) for server in servers]
        echo, predict = (_stub(port, method) for port, method in zip(ports, (ECHO, PREDICT), strict=True))
        one, many = _request(1), _request(ROWS)
        pairs = [(_p50(echo, one, seconds), _p50(predict, one, seconds)) for _ in range(rounds)]
        _tell("p50 at 1 caller, against an echo server", *_medians(pairs), "below 2")
        pairs = [(_rate(ports[0], ECHO, one, seconds), _rate(ports[1], PREDICT, one, seconds)) for _ in range(rounds)]
        _tell(f"requests/s at {CALLERS} callers, against an echo server", *_medians(pairs), "above 0.5")
        pairs = [(1 / _p50(predict, one, seconds), ROWS / _p50(predict, many, seconds)) for _ in range(rounds)]
        _tell(f"rows/s in requests of {ROWS}, against single rows", *_medians(pairs), "above 10")
        print(
            f"{'resident, ' + str(MODELS) + ' models in ' + str(VERSIONS) + ' versions':58}"
            f"{_resident_mib(servers[1].pid):>22,.0f} MiB   goal: below 1,229"
        )
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(10)


def _tell(name: str, floor: float, ours: float, goal: str) -> None:
    print(f"{name:58}{ours:12,.4g} / {floor:<10,.4g} = {ours / floor:6.2f}   goal: {goal}", flush=True)


def _medians(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    floors, ours = zip(*pairs, strict=True)
    return statistics.median(floors), statistics.median(ours)


def _make_models(folder: Path) -> list[Any]:
    """The same MLP in every version; returns its weights."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    sizes = ((FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
    weights = [random.normal(size=size).astype(np.float32) / 10 for size in sizes]
    module = tf.Module()
    module.weights = [tf.Variable(weight) for weight in weights]

    @tf.function(input_signature=[tf.TensorSpec([None, FEATURES], tf.float32, name="x")])
    def apply(x: Any) -> dict[str, Any]:
        w1, b1, w2, b2 = module.weights
        return {"y": tf.nn.softmax(tf.nn.relu(x @ w1 + b1) @ w2 + b2)}

    for model in range(MODELS):
        for version in range(1, VERSIONS + 1):
            tf.saved_model.save(module, str(folder / f"m{model}" / str(version)), signatures=apply)
    return weights


def _model_call(folder: Path, weights: list[Any], seconds: float, rounds: int) -> tuple[float, float]:
    """Seconds of one call: numpy's, the prepared callable's."""
    import numpy as np

    from serving.embedded.loading import session_settings
    from serving.embedded.session import Session

    flags = Flags(tensorflow_intra_op_parallelism=1, tensorflow_inter_op_parallelism=1)
    session = Session(folder / "m0" / "1", tags=["serve"], settings=session_settings(flags))
    signature = session.signatures["serving_default"]
    feeds, fetches = [signature.inputs["x"].name], [signature.outputs["y"].name]
    x = np.ones((1, FEATURES), np.float32)
    w1, b1, w2, b2 = weights

    def numpy_call(_: bytes) -> bytes:
        logits = np.maximum(x @ w1 + b1, 0) @ w2 + b2
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        exponents / exponents.sum(axis=1, keepdims=True)
        return b""

    def model_call(_: bytes) -> bytes:
        session.run(feeds, [x], fetches)
        return b""

    pairs = [(_p50(numpy_call, b"", seconds), _p50(model_call, b"", seconds)) for _ in range(rounds)]
    session.close()
    return _medians(pairs)


def _request(rows: int) -> bytes:
    import numpy as np
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m0"
    tensor = request.inputs["x"]
    tensor.dtype = types_pb2.DT_FLOAT
    for size in (rows, FEATURES):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ones((rows, FEATURES), np.float32).tobytes()
    return request.SerializeToString()


def _p50(call: Call, request: bytes, seconds: float) -> float:
    """Seconds of one call, the median, one after the other."""
    call(request)
    times, limit = [], time.perf_counter() + seconds
    while (begun := time.perf_counter()) < limit:
        call(request)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _rate(port: int, method: str, request: bytes, seconds: float) -> float:
    """Requests a second, by as many callers at once over one connection."""
    call = _stub(port, method)
    counts, limit = [0] * CALLERS, time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < limit:
            call(request)
            counts[index] += 1

    callers = [threading.Thread(target=work, args=(index,)) for index in range(CALLERS)]
    begun = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(counts) / (time.perf_counter() - begun)


def _stub(port: int, method: str) -> Call:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    stub = channel.unary_unary(method)  # bytes in, bytes out
    return lambda request: bytes(stub(request, wait_for_ready=True, timeout=60))


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own interpreter


def _start_server(folder: Path) -> subprocess.Popen[str]:
    entries = "".join(
        f'config {{ name: "m{model}" base_path: "{folder}/m{model}" model_platform: "tensorflow" '
        "model_version_policy { all {} } }\n"
        for model in range(MODELS)
    )
    path = folder / "models.config"
    path.write_text(f"model_config_list {{ {entries} }}")
    flags = ["--enable_serialization_as_tensor_content=true"]
    flags += ["--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=1"]
    return _start(
        [sys.executable, "-m", "serving.embedded", f"--model_config_file={path}", f"--port={_free()}", *flags]
    )


def _free() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _port(server: subprocess.Popen[str]) -> int:
    """Of the line that says that it runs."""
    for line in server.stdout or ():
        if line.startswith("Running"):
            return int(line.split()[-2].rpartition(":")[2])
    raise SystemExit("a server ended before it was ready")


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _echo() -> int:
    """As many threads as the server has, and nothing else."""
    server = grpc.server(futures.ThreadPoolExecutor(Flags().grpc_max_threads))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"Running echo server at 127.0.0.1:{port} ...", flush=True)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())
