"""Loading, listening, stopping: where the parts are put together."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from serving.embedded import config
from serving.embedded.calls import Calls
from serving.embedded.errors import ServingError
from serving.embedded.flags import Flags
from serving.embedded.health import Health
from serving.embedded.lifecycle import Lifecycle, LoadFailed
from serving.embedded.listen import CannotListen, GrpcServer
from serving.embedded.loading import Loader
from serving.embedded.metrics import Metrics
from serving.embedded.profiler import Profiler
from serving.embedded.reload import poll_config
from serving.embedded.services import handlers

if TYPE_CHECKING:
    from serving.embedded.rest.http import HttpServer, Page

FAILED = 255
GRACE_SECONDS = 5.0


def serve(flags: Flags) -> int:
    """Serve until SIGTERM or SIGINT. Ports open only after every model serves. Returns the exit code."""
    _allow_files()
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
        metrics = Metrics()
        load = Loader(flags, metrics)
        for library in filter(None, flags.custom_op_libraries.split(",")):
            tf.load_op_library(library)
    except config.ConfigError as error:
        return _misconfigured(error)
    except tf.errors.OpError as error:
        return _fail(f"NOT_FOUND: --custom_op_libraries: {error.message}")
    lifecycle = _lifecycle(flags, load)
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
        return _run(flags, lifecycle, metrics, stop)
    except CannotListen as error:
        print(error, file=sys.stderr, flush=True)
        return _fail(error.told)
    except config.ConfigError as error:
        return _misconfigured(error)


def _allow_files() -> None:
    """As many open files, and so connections, as the system lets us have: shells often give 1,024 and allow more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run(flags: Flags, lifecycle: Lifecycle, metrics: Metrics, stop: threading.Event) -> int:
    calls = Calls(lifecycle, metrics, as_content=flags.enable_serialization_as_tensor_content)
    threads = ThreadPoolExecutor(max(flags.grpc_max_threads, 1), thread_name_prefix="grpc")
    services, health = handlers(calls, metrics, threads), Health()
    if flags.enable_grpc_healthcheck_service:
        services.append(health.handler())
    if flags.enable_profiler:
        services.append(Profiler().handler())
    server = GrpcServer(flags, services)
    web = _start_rest(flags, calls, metrics)
    if flags.file_system_poll_wait_seconds > 0:  # 0 polls once, below 0 never; both are done by now
        lifecycle.poll(flags.file_system_poll_wait_seconds)
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0:
        poll_config(Path(flags.model_config_file), lifecycle, flags.model_config_file_poll_wait_seconds, stop)
    print(f"Running gRPC ModelServer at {flags.grpc_host}:{server.port} ...", flush=True)
    while not stop.wait(0.5):
        pass  # a signal that another thread took in does not wake this one
    ended, limit = server.stop(GRACE_SECONDS, first=health.stop), time.monotonic() + GRACE_SECONDS
    if web:
        web.stop(GRACE_SECONDS)
    wait([ended], max(limit - time.monotonic(), 0.5))
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
        Routes(calls, metrics, timeout_seconds=flags.rest_api_timeout_in_ms / 1000),
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


def _lifecycle(flags: Flags, load: Loader) -> Lifecycle:
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


def _misconfigured(error: config.ConfigError) -> int:
    if error.detail:
        print(error.detail, file=sys.stderr, flush=True)
    return _fail(f"{error.code}: {error}")


def _fail(message: str) -> int:
    print(f"Failed to start server. Error: {message}", flush=True)
    return _exit(FAILED)


def _exit(code: int) -> int:
    """End here: a version that is still being loaded in a thread would hold up, or break, an orderly end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
