"""Every flag of tensorflow_model_server, with what this server makes of it."""

from __future__ import annotations

from dataclasses import dataclass

NO_REST = "there is no REST API here yet; call the gRPC port"
NO_BATCHING = "requests run one by one, with the same answers"
NO_MONITORING = "there is no metrics page here yet"
NO_TFLITE = "models are served from saved_model.pb"
NO_WARMUP = "no warm-up requests are replayed; the callables are prepared at loading"
ONE_LOADER = "models are loaded and unloaded one after the other"
TUNING = "it tunes the C++ server"


@dataclass(frozen=True, slots=True)
class Flag:
    """`default` fixes the type; `without_meaning` says why giving the flag changes nothing, empty if it is honoured."""

    name: str
    default: str | int | float | bool
    help: str = ""
    without_meaning: str = ""


_HONOURED = (
    Flag("port", 8500, "TCP port to listen on for gRPC API. Disabled if port set to zero."),
    Flag("grpc_host", "127.0.0.1", "address to listen on; not a flag of TF Serving, which listens on every address"),
    Flag("grpc_socket_path", "", "If non-empty, listen to a UNIX socket for gRPC API on the given path."),
    Flag("grpc_max_threads", 16, "Max grpc server threads to handle grpc messages."),
    Flag("grpc_channel_arguments", "", "A comma separated list of arguments for the grpc server (key=value)."),
    Flag("model_name", "default", "name of model (ignored if --model_config_file flag is set)"),
    Flag("model_base_path", "", "path to export (ignored if --model_config_file flag is set, otherwise required)"),
    Flag("model_config_file", "", "If non-empty, serve the models of this ascii ModelServerConfig protobuf."),
    Flag("file_system_poll_wait_seconds", 1, "Seconds between polls for new versions; 0 polls once, below 0 never."),
    Flag("max_num_load_retries", 5, "maximum number of times it retries loading a model after the first failure"),
    Flag("load_retry_interval_micros", 60_000_000, "Microseconds between load retries. If negative, it doesn't wait."),
    Flag("saved_model_tags", "serve", "Comma-separated set of tags of the meta graph def to load from SavedModel."),
    Flag("tensorflow_session_parallelism", 0, "Threads for running a session. Auto-configured by default."),
    Flag("tensorflow_intra_op_parallelism", 0, "Threads for an individual op. Auto-configured by default."),
    Flag("tensorflow_inter_op_parallelism", 0, "Operators run at the same time; above 1 uses TensorFlow's own pool."),
    Flag("per_process_gpu_memory_fraction", 0.0, "Fraction of the GPU memory space; 0.0 lets TensorFlow choose."),
    Flag("allow_version_labels_for_unavailable_models", False, "Allows labels on versions that are not available yet."),
    Flag("enable_serialization_as_tensor_content", False, "Answers carry tensor_content instead of typed fields."),
    Flag("enable_grpc_healthcheck_service", False, "Enable the standard gRPC health check service."),
    Flag("version", False, "Display version"),
)

_WITHOUT_MEANING = (
    Flag("rest_api_port", 0, without_meaning=NO_REST),
    Flag("rest_api_num_threads", 0, without_meaning=NO_REST),
    Flag("rest_api_timeout_in_ms", 30_000, without_meaning=NO_REST),
    Flag("rest_api_enable_cors_support", False, without_meaning=NO_REST),
    Flag("enable_batching", False, without_meaning=NO_BATCHING),
    Flag("batching_parameters_file", "", without_meaning=NO_BATCHING),
    Flag("enable_per_model_batching_parameters", False, without_meaning=NO_BATCHING),
    Flag("monitoring_config_file", "", without_meaning=NO_MONITORING),
    Flag("model_config_file_poll_wait_seconds", 0, without_meaning="the file is read once, at the start"),
    Flag("enable_model_warmup", True, without_meaning=NO_WARMUP),
    Flag("num_request_iterations_for_warmup", 0, without_meaning=NO_WARMUP),
    Flag("num_load_threads", 0, without_meaning=ONE_LOADER),
    Flag("num_unload_threads", 0, without_meaning=ONE_LOADER),
    Flag("prefer_tflite_model", False, without_meaning=NO_TFLITE),
    Flag("num_tflite_pools", 0, without_meaning=NO_TFLITE),
    Flag("num_tflite_interpreters_per_pool", 0, without_meaning=NO_TFLITE),
    Flag("enable_profiler", True, without_meaning="there is no profiler service here"),
    Flag("flush_filesystem_caches", True, without_meaning=TUNING),
    Flag("platform_config_file", "", without_meaning="the only platform here is tensorflow"),
    Flag("tensorflow_session_config_file", "", without_meaning=TUNING),
    Flag("remove_unused_fields_from_bundle_metagraph", True, without_meaning=TUNING),
    Flag("enable_signature_method_name_check", False, without_meaning="method names are not checked"),
    Flag("xla_cpu_compilation_enabled", False, without_meaning=TUNING),
    Flag("thread_pool_factory_config_file", "", without_meaning=TUNING),
    Flag("total_model_memory_limit_bytes", 0, without_meaning="memory is not accounted per model"),
    Flag("mixed_precision", "", without_meaning=TUNING),
    Flag("skip_initialize_tpu", False, without_meaning="there is no TPU support here"),
    Flag("ssl_config_file", ""),
    Flag("use_alts_credentials", False),
)

FLAGS: dict[str, Flag] = {flag.name: flag for flag in (*_HONOURED, *_WITHOUT_MEANING)}

REFUSED: dict[str, str] = {
    "ssl_config_file": "this server has no TLS, and serving in the clear instead would be unsafe; leave the flag out",
    "use_alts_credentials": "this server has no ALTS, and serving in the clear instead would be unsafe; leave it out",
}
"""Flags that protect: to ignore them would be worse than not to start."""
