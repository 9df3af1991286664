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
    """The configuration cannot be used. ``detail`` is what a parser said, for standard error; ``code`` is gRPC's."""

    def __init__(self, message: str, *, code: str = "INVALID_ARGUMENT", detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail


class _Unparsable(ConfigError):
    """Text that is not a ModelServerConfig, wherever it came from."""


def load(flags: Flags) -> list[ModelConfig]:
    """The models to serve. Raises ConfigError."""
    if not flags.model_config_file:
        if not flags.model_base_path:
            raise ConfigError("Both server_options.model_base_path and server_options.model_config_file are empty!")
        return [ModelConfig(flags.model_name, _base_path(flags.model_name, flags.model_base_path))]
    return read(Path(flags.model_config_file))


def read(path: Path) -> list[ModelConfig]:
    """The models of a file. Raises ConfigError."""
    try:
        return parse(_read(str(path)))
    except _Unparsable as error:
        raise ConfigError(f"Invalid protobuf file: '{path}'", detail=str(error)) from error


def read_message(path: str, message: Message) -> Message:
    """A message from a file of protobuf text, filled and returned. Raises ConfigError."""
    try:
        return text_format.Parse(_read(path), message)
    except text_format.ParseError as error:
        detail = f"Error parsing text-format {message.DESCRIPTOR.full_name}: {error}"
        raise ConfigError(f"Invalid protobuf file: '{path}'", detail=detail) from error


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
    if not flags.batching_parameters_file:
        return Parameters(thread_pool_name="model_server_batch_threads")
    return batching_parameters(flags.batching_parameters_file)


def batching_parameters(path: str) -> Parameters:
    """Raises ConfigError."""
    given: Any = read_message(path, protos.message("BatchingParameters"))
    wrapped = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    values = {name: getattr(given, name).value for name in (*wrapped, "thread_pool_name") if given.HasField(name)}
    try:
        return Parameters(
            **values,
            allowed_batch_sizes=tuple(given.allowed_batch_sizes),
            enable_large_batch_splitting=given.enable_large_batch_splitting.value,
        )
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"{path}; {error.strerror}", code="NOT_FOUND") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Invalid protobuf file: '{path}'", detail="the file is not UTF-8") from error


def parse(text: str) -> list[ModelConfig]:
    """
    >>> parse('model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" } }')
    [ModelConfig(name='m', base_path=PosixPath('/m'), policy=Latest(count=1), labels={})]
    """
    message = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise _Unparsable(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {error}") from error
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
    if not entry.name:
        raise ConfigError(f"a model in the config list has no name: {text_format.MessageToString(entry)}")
    base_path = _base_path(entry.name, entry.base_path)
    platform = _platform(entry)
    if platform != "tensorflow":
        raise ConfigError(f"Model {entry.name} requests unsupported platform {platform}")
    return ModelConfig(entry.name, base_path, _policy(entry.model_version_policy), dict(entry.version_labels))


def _base_path(name: str, text: str) -> Path:
    """What is relative is refused: it would mean another folder wherever the server is started."""
    if "://" in text:
        raise ConfigError(f"Model {name}: base_path {text} is a URI; this server reads folders of this machine alone")
    if not text.startswith("/"):
        raise ConfigError(f"Expected model {name} to have an absolute path or URI; got base_path()={text}")
    return Path(text)


def _platform(entry: model_server_config_pb2.ModelConfig) -> str:
    """ServerCore's GetPlatform; ``model_type`` is its forerunner."""
    if entry.model_type and entry.model_platform:
        raise ConfigError(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    if not entry.model_type and not entry.model_platform:
        raise ConfigError(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    if entry.model_type and entry.model_type != model_server_config_pb2.TENSORFLOW:
        raise ConfigError(f"ModelServerConfig::model_type choice {entry.model_type} not supported.")
    return entry.model_platform or "tensorflow"


def _policy(message: Any) -> Policy:
    """Of a FileSystemStoragePathSourceConfig.ServableVersionPolicy."""
    match message.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(message.specific.versions))
        case _:
            return Latest(message.latest.num_versions or 1)
