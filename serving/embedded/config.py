"""The model configuration: a text-format ``ModelServerConfig``, or one model given by flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded import protos
from serving.embedded.batching import Parameters
from serving.embedded.flags import Flags
from serving.embedded.versions import All, Latest, ModelConfig, Policy, Specific

DEFAULT_PROMETHEUS_PATH = "/monitoring/prometheus/metrics"


class ConfigError(Exception):
    """The configuration cannot be used; the text is for standard error."""


def load(flags: Flags) -> list[ModelConfig]:
    """The models to serve. Raises ConfigError."""
    if not flags.model_config_file:
        if not flags.model_base_path:
            raise ConfigError("Both server_options.model_base_path and server_options.model_config_file are empty!")
        return [ModelConfig(flags.model_name, Path(flags.model_base_path))]
    return parse(_read(flags.model_config_file))


def read_message(path: str, message: Message) -> Message:
    """A message from a file of protobuf text, filled and returned. Raises ConfigError."""
    try:
        return text_format.Parse(_read(path), message)
    except text_format.ParseError as error:
        raise ConfigError(f"Error parsing text-format {message.DESCRIPTOR.full_name}: {path}: {error}") from error


def prometheus_path(monitoring_config_file: str) -> str:
    """Where the metrics are shown; empty if they are not (config/monitoring_config.proto). Raises ConfigError."""
    if not monitoring_config_file:
        return ""
    settings: Any = read_message(monitoring_config_file, protos.message("MonitoringConfig"))
    prometheus = settings.prometheus_config
    return (prometheus.path or DEFAULT_PROMETHEUS_PATH) if prometheus.enable else ""


def batching(flags: Flags) -> Parameters | None:
    """None unless --enable_batching. Raises ConfigError."""
    if not flags.enable_batching:
        if flags.batching_parameters_file:
            raise ConfigError(
                "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
            )
        return None
    given: Any = protos.message("BatchingParameters")
    if flags.batching_parameters_file:
        read_message(flags.batching_parameters_file, given)
    numbers = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    values = {name: getattr(given, name).value for name in numbers if given.HasField(name)}
    try:
        return Parameters(
            **values,
            allowed_batch_sizes=tuple(given.allowed_batch_sizes),
            enable_large_batch_splitting=given.enable_large_batch_splitting.value,
        )
    except ValueError as error:
        raise ConfigError(f"{flags.batching_parameters_file}: {error}") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Error parsing text-format: {path} is not UTF-8") from error


def parse(text: str) -> list[ModelConfig]:
    """
    >>> parse('model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" } }')
    [ModelConfig(name='m', base_path=PosixPath('/m'), policy=Latest(count=1), labels={})]
    """
    message = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ConfigError(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {error}") from error
    return from_message(message)


def from_message(message: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """The models of a configuration that came as a file or in a call. Raises ConfigError."""
    if message.WhichOneof("config") == "custom_model_config":
        raise ConfigError("custom_model_config is not supported; use model_config_list")
    models = [_model(entry) for entry in message.model_config_list.config]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Illegal to list model {name} multiple times in config list")
    return models


def _model(entry: model_server_config_pb2.ModelConfig) -> ModelConfig:
    if not entry.name or not entry.base_path:
        raise ConfigError(
            f"a model in the config list has no name or no base_path: {text_format.MessageToString(entry)}"
        )
    if entry.model_platform and entry.model_platform != "tensorflow":
        raise ConfigError(f"model {entry.name}: model_platform {entry.model_platform!r} is not tensorflow")
    return ModelConfig(
        entry.name, Path(entry.base_path), _policy(entry.model_version_policy), dict(entry.version_labels)
    )


def _policy(message: Any) -> Policy:
    """Of a FileSystemStoragePathSourceConfig.ServableVersionPolicy."""
    match message.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(message.specific.versions))
        case _:
            return Latest(message.latest.num_versions or 1)
