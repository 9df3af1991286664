"""Loading, listening, stopping: where the parts are put together."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from serving.embedded import config
from serving.embedded.batching import Batcher, Parameters
from serving.embedded.calls import Calls
from serving.embedded.errors import ServingError
from serving.embedded.flags import Flags
from serving.embedded.lifecycle import Lifecycle, LoadFailed
from serving.embedded.listen import CannotListen, listen
from serving.embedded.metrics import Metrics
from serving.embedded.reload import poll_config
from serving.embedded.servable import Servable
from serving.embedded.services import handlers, health
from serving.embedded.warmup import warm_up

if TYPE_CHECKING:
    from serving.embedded.rest.http import HttpServer, Page

FAILED = 255
GRACE_SECONDS = 5.0


def serve(flags: Flags) -> int:
    """Serve until SIGTERM or SIGINT. Ports open only after every model serves. Returns the exit code."""
    tf.get_logger().setLevel("ERROR")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not flags.port and not flags.grpc_socket_path:
        return _fail(
            "INVALID_ARGUMENT: At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
        )
    try:
        models = config.load(flags)
        batching = config.batching(flags)
        for library in filter(None, flags.custom_op_libraries.split(",")):
            tf.load_op_library(library)
    except config.ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        return _fail("INVALID_ARGUMENT: the model configuration cannot be used")
    except tf.errors.OpError as error:
        return _fail(f"NOT_FOUND: --custom_op_libraries: {error.message}")
    lifecycle = _lifecycle(flags, batching)
    failures: list[str] = []
    loading = threading.Thread(target=_load, args=(lambda: lifecycle.configure(models), failures), daemon=True)
    loading.start()
    while loading.is_alive() and not stop.wait(0.02):
        pass
    if failures:
        return _fail(failures[0])
    if stop.is_set():
        return _exit(0)
    try:
        return _run(flags, lifecycle, stop)
    except CannotListen as error:
        return _fail(str(error))
    except config.ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        return _fail("INVALID_ARGUMENT: the configuration cannot be used")


def _run(flags: Flags, lifecycle: Lifecycle, stop: threading.Event) -> int:
    calls = Calls(lifecycle, as_content=flags.enable_serialization_as_tensor_content)
    metrics = Metrics()
    services = handlers(calls, metrics)
    if flags.enable_grpc_healthcheck_service:
        services.append(health())
    server, port = listen(flags, services)
    web = _start_rest(flags, calls, metrics)
    if flags.file_system_poll_wait_seconds > 0:  # 0 polls once, below 0 never; both are done by now
        lifecycle.poll(flags.file_system_poll_wait_seconds)
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0:
        poll_config(Path(flags.model_config_file), lifecycle, flags.model_config_file_poll_wait_seconds, stop)
    print(f"Running gRPC ModelServer at {flags.grpc_host}:{port} ...", flush=True)
    while not stop.wait(0.5):
        pass  # a signal that another thread took in does not wake this one
    ended, limit = server.stop(GRACE_SECONDS), time.monotonic() + GRACE_SECONDS
    if web:
        web.stop(GRACE_SECONDS)
    ended.wait(max(limit - time.monotonic(), 0.5))
    lifecycle.close()
    return _exit(0)


def _start_rest(flags: Flags, calls: Calls, metrics: Metrics) -> HttpServer | None:
    """None without --rest_api_port; a port that cannot be used ends the start, as the real server's does."""
    if not flags.rest_api_port:
        return None
    address = f"{flags.grpc_host}:{flags.rest_api_port}"
    if flags.rest_api_port == flags.port:
        print("--rest_api_port is --port as well: REST is left out", file=sys.stderr, flush=True)
        return None
    try:
        # Here, since only REST needs uvicorn and python-rapidjson: without it the server starts without them.
        from serving.embedded.rest.http import App, HttpServer, listener
        from serving.embedded.rest.routes import Routes
    except ModuleNotFoundError as error:
        raise CannotListen(f"--rest_api_port needs a package: {error}; install it with pip") from error
    try:
        taken = listener(flags.grpc_host, flags.rest_api_port)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}; give another --rest_api_port") from error
    app = App(
        Routes(calls, metrics),
        threads=max(flags.rest_api_num_threads, 1),
        timeout_seconds=flags.rest_api_timeout_in_ms / 1000,
        cors=flags.rest_api_enable_cors_support,
        pages=_metrics_page(flags, metrics),
    )
    print(f"Exporting HTTP/REST API at:{address} ...", flush=True)
    return HttpServer(app, taken)


def _metrics_page(flags: Flags, metrics: Metrics) -> dict[str, Page]:
    """Where --monitoring_config_file says so, and only if it does. Raises ConfigError."""
    path = config.prometheus_path(flags.monitoring_config_file)
    return {path: lambda: (metrics.text().encode(), "text/plain")} if path else {}


def _lifecycle(flags: Flags, batching: Parameters | None) -> Lifecycle:
    def load(name: str, number: int, path: Path) -> Servable:
        servable = build(path)
        try:
            if flags.enable_model_warmup:
                warm_up(servable, path)
        except ServingError:
            servable.retire()
            raise
        return servable

    both = flags.tensorflow_session_parallelism
    build = partial(
        Servable,
        tags=flags.saved_model_tags.split(","),
        intra_op_threads=flags.tensorflow_intra_op_parallelism or both,
        inter_op_threads=flags.tensorflow_inter_op_parallelism or both,
        batched=(lambda run: Batcher(run, batching).run) if batching else None,
    )
    return Lifecycle(
        load=load,
        max_retries=flags.max_num_load_retries,
        retry_seconds=flags.load_retry_interval_micros / 1e6,
        load_threads=flags.num_load_threads or os.cpu_count() or 1,
        labels_before_versions=flags.allow_version_labels_for_unavailable_models,
        report=lambda line: print(line, flush=True),
    )


def _load(configure: Callable[[], None], failures: list[str]) -> None:
    try:
        configure()
    except LoadFailed as error:
        failures.append(f"UNKNOWN: {error}")
    except ServingError as error:
        failures.append(f"{error.code.name}: {error.message}")


def _fail(message: str) -> int:
    print(f"Failed to start server. Error: {message}", flush=True)
    return _exit(FAILED)


def _exit(code: int) -> int:
    """End here: a version that is still being loaded in a thread would hold up, or break, an orderly end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
