from __future__ import annotations

import io

import pytest

from serving.embedded.flags import FlagError, Flags, parse


def told(*arguments: str) -> tuple[Flags, str]:
    errors = io.StringIO()
    return parse(arguments, errors=errors), errors.getvalue()


def test_values_come_after_an_equals_sign() -> None:
    flags, errors = told("--port=1", "--model_name=m=n", "--enable_batching", "--enable_model_warmup=false")
    assert (flags.port, flags.model_name, flags.enable_batching, flags.enable_model_warmup) == (1, "m=n", True, False)
    assert errors == ""


def test_the_defaults_are_the_real_servers() -> None:
    flags, _ = told()
    assert (flags.port, flags.rest_api_port, flags.model_name) == (8500, 0, "default")
    assert (flags.max_num_load_retries, flags.load_retry_interval_micros) == (5, 60_000_000)
    assert flags.file_system_poll_wait_seconds == 1
    assert not flags.enable_serialization_as_tensor_content


@pytest.mark.parametrize("argument", ["--no_such_flag=1", "--port", "port=1", "stray"])
def test_an_unknown_argument_prints_the_usage_and_goes_on(argument: str) -> None:
    flags, errors = told(argument, "--model_name=m")
    assert errors.startswith(f"unknown argument: {argument}\nusage: ")
    assert flags == Flags(model_name="m")


def test_a_flag_without_meaning_here_is_named_once() -> None:
    flags, errors = told("--enable_profiler=false")
    assert errors == "flag --enable_profiler has no effect in this server\n"
    assert flags == Flags()


@pytest.mark.parametrize("argument", ["--port=x", "--port=", "--port=1.5", "--enable_batching=maybe"])
def test_a_value_that_does_not_fit_is_an_error(argument: str) -> None:
    with pytest.raises(FlagError, match="Couldn't interpret value"):
        parse([argument])
