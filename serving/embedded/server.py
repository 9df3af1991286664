"""Loading, listening, stopping."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent import futures
from functools import partial

import grpc

from serving.embedded import config
from serving.embedded.flags import Flags
from serving.embedded.lifecycle import Lifecycle, LoadFailed
from serving.embedded.servable import Servable
from serving.embedded.services import Services

FAILED = 255
GRACE_SECONDS = 5.0
#: As the real server's: protobuf's own limit.
MAX_MESSAGE_BYTES = (1 << 31) - 1


def serve(flags: Flags) -> int:
    """Serve until SIGTERM or SIGINT. Ports open only after every model is loaded. Returns the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        models = config.load(flags)
    except config.ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        print("Failed to start server. Error: INVALID_ARGUMENT: the model configuration cannot be used", flush=True)
        return FAILED
    lifecycle = Lifecycle(
        models,
        load=partial(
            Servable,
            intra_op_threads=flags.tensorflow_intra_op_parallelism,
            inter_op_threads=flags.tensorflow_inter_op_parallelism,
        ),
        max_retries=flags.max_num_load_retries,
        retry_seconds=flags.load_retry_interval_micros / 1e6,
        report=lambda line: print(line, flush=True),
    )
    failures: list[str] = []
    loading = threading.Thread(target=_load, args=(lifecycle, failures), daemon=True)
    loading.start()
    while loading.is_alive() and not stop.wait(0.05):
        pass
    if failures:
        print(f"Failed to start server. Error: {failures[0]}", flush=True)
        return FAILED
    if stop.is_set():
        return 0
    server = _listen(flags, Services(lifecycle, as_content=flags.enable_serialization_as_tensor_content))
    if server is None:
        return FAILED
    if flags.file_system_poll_wait_seconds > 0:  # 0 polls once, below 0 never; both are done by now
        lifecycle.poll(flags.file_system_poll_wait_seconds)
    print(f"Running gRPC ModelServer at {flags.grpc_host}:{flags.port} ...", flush=True)
    stop.wait()
    server.stop(GRACE_SECONDS).wait()
    lifecycle.close()
    return 0


def _load(lifecycle: Lifecycle, failures: list[str]) -> None:
    try:
        lifecycle.load_all()
    except LoadFailed as error:
        failures.append(str(error))


def _listen(flags: Flags, services: Services) -> grpc.Server | None:
    server = grpc.server(
        futures.ThreadPoolExecutor(flags.grpc_max_threads),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Otherwise two servers share one port without a word.
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers(services.handlers())
    address = f"{flags.grpc_host}:{flags.port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        print(f"Failed to start server. Error: cannot listen on {address}; give another --port", flush=True)
        return None
    server.start()
    return server
