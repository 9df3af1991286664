"""The command line, as tensorflow_model_server has it (model_servers/main.cc): ``--name=value``, ``--switch``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TextIO


@dataclass(slots=True)
class Flags:
    """Flags that mean something here, with the real server's defaults."""

    port: int = 8500
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    file_system_poll_wait_seconds: int = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    enable_serialization_as_tensor_content: bool = False
    #: Ours: the real server listens on every address and cannot be told otherwise.
    grpc_host: str = "127.0.0.1"
    #: The real server's default is four a processor; Python's threads gain nothing above this.
    grpc_max_threads: int = 16
    version: bool = False


#: Flags of the real server that change nothing here yet; given, they are named once on standard error.
WITHOUT_MEANING = frozenset(
    {
        "allow_version_labels_for_unavailable_models",
        "batching_parameters_file",
        "enable_batching",
        "enable_grpc_healthcheck_service",
        "enable_model_warmup",
        "enable_profiler",
        "flush_filesystem_caches",
        "grpc_channel_arguments",
        "grpc_socket_path",
        "model_config_file_poll_wait_seconds",
        "monitoring_config_file",
        "num_load_threads",
        "num_unload_threads",
        "per_process_gpu_memory_fraction",
        "platform_config_file",
        "prefer_tflite_model",
        "rest_api_enable_cors_support",
        "rest_api_num_threads",
        "rest_api_port",
        "rest_api_timeout_in_ms",
        "saved_model_tags",
        "ssl_config_file",
        "tensorflow_session_config_file",
        "tensorflow_session_parallelism",
    }
)

_TRUE, _FALSE = ("true", "1", ""), ("false", "0")


def parse(arguments: Sequence[str], *, errors: TextIO = sys.stderr) -> Flags:
    """As the real server does: what cannot be parsed prints the usage, and the server goes on (main.cc)."""
    flags = Flags()
    known = {field.name: field.type for field in fields(Flags)}
    for argument in arguments:
        name, separator, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in WITHOUT_MEANING:
            print(f"flag --{name} has no effect in this server", file=errors)
        elif not argument.startswith("--") or name not in known or not _set(flags, name, known[name], separator, value):
            print(f"unknown argument: {argument}\n{usage()}", file=errors)
    return flags


def usage() -> str:
    lines = [f"\t--{field.name}={getattr(Flags(), field.name)}" for field in fields(Flags)]
    return "\n".join(["usage: python -m serving.embedded", "Flags:", *lines])


def _set(flags: Flags, name: str, kind: object, separator: str, value: str) -> bool:
    if kind == "bool":
        if value not in (*_TRUE, *_FALSE):
            return False
        setattr(flags, name, value in _TRUE)
        return True
    if not separator:
        return False
    if kind == "int":
        if not value.removeprefix("-").isdecimal():
            return False
        setattr(flags, name, int(value))
        return True
    setattr(flags, name, value)
    return True
