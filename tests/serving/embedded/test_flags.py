from __future__ import annotations

import io

import pytest

from serving.embedded.flags import WITHOUT_MEANING, FlagError, Flags, parse


def told(*arguments: str) -> tuple[Flags, str, str]:
    """The flags, standard output, standard error."""
    out, errors = io.StringIO(), io.StringIO()
    return parse(arguments, out=out, errors=errors), out.getvalue(), errors.getvalue()


def test_values_come_after_an_equals_sign() -> None:
    flags, out, errors = told("--port=1", "--model_name=m=n", "--enable_batching", "--enable_model_warmup=false")
    assert (flags.port, flags.model_name, flags.enable_batching, flags.enable_model_warmup) == (1, "m=n", True, False)
    assert out == errors == ""


def test_the_defaults_are_the_real_servers() -> None:
    flags, _, _ = told()
    assert (flags.port, flags.rest_api_port, flags.model_name) == (8500, 0, "default")
    assert (flags.max_num_load_retries, flags.load_retry_interval_micros) == (5, 60_000_000)
    assert flags.file_system_poll_wait_seconds == 1
    assert not flags.enable_serialization_as_tensor_content


@pytest.mark.parametrize("argument", ["--no_such_flag=1", "--port", "port=1", "stray"])
def test_an_unknown_argument_prints_the_usage_and_goes_on(argument: str) -> None:
    flags, out, errors = told(argument, "--model_name=m", "--another=1")
    assert out.startswith(f"unknown argument: {argument}\nusage: ")
    assert out.count("unknown argument") == 1  # the rest are ignored without a word (main.cc)
    assert errors == ""
    assert flags == Flags(model_name="m")


@pytest.mark.parametrize("name", sorted(WITHOUT_MEANING))
def test_a_flag_without_meaning_here_is_named_once(name: str) -> None:
    flags, out, errors = told(f"--{name}=1")
    assert (out, errors) == ("", f"flag --{name} has no effect in this server\n")
    assert flags == Flags()


#: Every flag of main.cc, and of those that users set the values that they would.
MEANT = {
    "port": 1,
    "rest_api_port": 1,
    "grpc_socket_path": "s",
    "model_name": "m",
    "model_base_path": "/m",
    "model_config_file": "f",
    "model_config_file_poll_wait_seconds": 1,
    "file_system_poll_wait_seconds": -1,
    "enable_batching": True,
    "batching_parameters_file": "f",
    "enable_per_model_batching_parameters": True,
    "monitoring_config_file": "f",
    "allow_version_labels_for_unavailable_models": True,
    "enable_model_warmup": False,
    "num_request_iterations_for_warmup": 2,
    "num_load_threads": 2,
    "tensorflow_session_parallelism": 2,
    "tensorflow_intra_op_parallelism": 2,
    "tensorflow_inter_op_parallelism": 2,
    "tensorflow_session_config_file": "f",
    "per_process_gpu_memory_fraction": 0.5,
    "grpc_channel_arguments": "a=1",
    "grpc_max_threads": 2,
    "ssl_config_file": "f",
    "saved_model_tags": "serve,gpu",
    "enable_grpc_healthcheck_service": True,
    "enable_serialization_as_tensor_content": True,
    "enable_profiler": False,
    "prefer_tflite_model": True,
    "num_tflite_pools": 2,
    "rest_api_num_threads": 2,
    "rest_api_timeout_in_ms": 2,
    "rest_api_enable_cors_support": True,
    "max_num_load_retries": 0,
    "load_retry_interval_micros": -1,
    "version": True,
}


@pytest.mark.parametrize("name", MEANT)
def test_the_real_servers_flags_are_taken_under_their_names(name: str) -> None:
    value = MEANT[name]
    flags, out, errors = told(f"--{name}={str(value).lower() if isinstance(value, bool) else value}")
    assert (getattr(flags, name), out, errors) == (value, "", "")


def test_a_switch_takes_true_and_false_in_any_case_or_a_digit() -> None:
    """tensorflow/core/util/command_line_flags.cc."""
    for text, value in (("TRUE", True), ("1", True), ("False", False), ("0", False)):
        assert told(f"--enable_batching={text}")[0].enable_batching is value


@pytest.mark.parametrize(
    "argument", ["--port=x", "--port=", "--port=1.5", "--enable_batching=maybe", "--enable_batching="]
)
def test_a_value_that_does_not_fit_is_an_error(argument: str) -> None:
    with pytest.raises(FlagError, match="Couldn't interpret value"):
        parse([argument])
