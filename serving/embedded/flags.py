"""The command line, as tensorflow_model_server has it (model_servers/main.cc): ``--name=value``, ``--switch``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TextIO


@dataclass(slots=True)
class Flags:
    """Flags that mean something here, with the real server's defaults."""

    port: int = 8500
    grpc_socket_path: str = ""
    rest_api_port: int = 0
    rest_api_num_threads: int = 16
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    file_system_poll_wait_seconds: int = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    num_load_threads: int = 0
    allow_version_labels_for_unavailable_models: bool = False
    saved_model_tags: str = "serve"
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0
    enable_batching: bool = False
    batching_parameters_file: str = ""
    enable_per_model_batching_parameters: bool = False
    monitoring_config_file: str = ""
    ssl_config_file: str = ""
    grpc_channel_arguments: str = ""
    enable_grpc_healthcheck_service: bool = False
    enable_profiler: bool = True
    prefer_tflite_model: bool = False
    #: 0: one for each processor, which is the real server's default.
    num_tflite_pools: int = 0
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    tensorflow_session_config_file: str = ""
    per_process_gpu_memory_fraction: float = 0.0
    enable_serialization_as_tensor_content: bool = False
    #: Ours: the real server listens on every address and cannot be told otherwise.
    grpc_host: str = "127.0.0.1"
    #: The real server's default is four a processor; Python's threads gain nothing above this.
    grpc_max_threads: int = 16
    #: Ours: libraries of custom operations, with commas between; the real server has them compiled in.
    custom_op_libraries: str = ""
    version: bool = False


#: Flags of the real server that change nothing here; given, they are named once on standard error.
WITHOUT_MEANING = frozenset(
    {
        "enable_signature_method_name_check",
        "flush_filesystem_caches",
        "mixed_precision",
        "num_tflite_interpreters_per_pool",
        "num_unload_threads",
        "platform_config_file",
        "remove_unused_fields_from_bundle_metagraph",
        "skip_initialize_tpu",
        "thread_pool_factory_config_file",
        "use_alts_credentials",
        "xla_cpu_compilation_enabled",
        "xla_gpu_compilation_enabled",
    }
)


class FlagError(Exception):
    """A value that cannot be read; the text names the flag."""


_TRUE, _FALSE = ("true", "1"), ("false", "0")


def parse(arguments: Sequence[str], *, out: TextIO = sys.stdout, errors: TextIO = sys.stderr) -> Flags:
    """The first unknown argument is named with the usage, and all are ignored, as in the real server (main.cc).

    Raises FlagError for a value that does not fit its flag: there the real server stops.
    """
    flags, unknown = Flags(), []
    known = {field.name: field.type for field in fields(Flags)}
    for argument in arguments:
        name, separator, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in WITHOUT_MEANING:
            print(f"flag --{name} has no effect in this server", file=errors)
        elif argument.startswith("--") and name in known and (separator or known[name] == "bool"):
            setattr(flags, name, _value(name, known[name], value if separator else "true"))
        else:
            unknown.append(argument)
    if unknown:
        print(f"unknown argument: {unknown[0]}\n{usage()}", file=out)
    return flags


def usage() -> str:
    lines = [f"\t--{field.name}={getattr(Flags(), field.name)}" for field in fields(Flags)]
    return "\n".join(["usage: python -m serving.embedded", "Flags:", *lines])


def _value(name: str, kind: object, text: str) -> bool | int | float | str:
    if kind == "str":
        return text
    if kind == "bool" and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    if kind == "int" and text.isascii() and text.removeprefix("-").isdigit():
        return int(text)
    if kind == "float":
        with suppress(ValueError):
            return float(text)
    raise FlagError(f"Couldn't interpret value {text} for flag {name}.")
