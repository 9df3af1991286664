"""ModelServerConfig -> frozen settings, with TF Serving's checks and texts (model_servers/server_core.cc)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig, ModelType

from serving.embedded.errors import ServingError, failed_precondition, invalid_argument, not_found
from serving.embedded.versions import All, Latest, Policy, Specific

PLATFORM = "tensorflow"


class ConfigSyntaxError(ServingError):
    """The file is no text-format ModelServerConfig; `detail` is the line protobuf's parser writes to stderr."""

    def __init__(self, path: str, detail: str) -> None:
        cause = invalid_argument(f"Invalid protobuf file: '{path}'")
        super().__init__(cause.code, cause.message)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ModelSettings:
    name: str
    base_path: str
    policy: Policy = Latest(1)
    labels: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


def single_model(name: str, base_path: str) -> tuple[ModelSettings, ...]:
    """What `--model_name` and `--model_base_path` ask for."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    return settings(config)


def read(path: str) -> tuple[ModelSettings, ...]:
    """The models of a `--model_config_file`. Raises ServingError; an empty file is a server without models."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise not_found(f"{path}; {os.strerror(error.errno or 0)}") from error
    config = ModelServerConfig()
    try:
        text_format.Parse(text, config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigSyntaxError(path, _parser_line(str(error))) from error
    return settings(config)


def settings(config: ModelServerConfig) -> tuple[ModelSettings, ...]:
    """Raises INVALID_ARGUMENT for names listed twice, relative base paths and platforms other than tensorflow."""
    if config.HasField("custom_model_config"):
        raise invalid_argument("ModelServer does not yet support custom model config.")
    models = config.model_config_list.config
    _check_names_and_paths(models)
    for model in models:
        _check_platform(model)
    return tuple(ModelSettings(m.name, m.base_path, _policy(m), dict(m.version_labels)) for m in models)


def check_labels(models: Sequence[ModelSettings], *, allow_unavailable: bool) -> None:
    """At the start no version is available yet, so a label needs the flag that allows it.

    TF Serving's UpdateModelVersionLabelMap runs before the models are loaded: every label fails there without
    --allow_version_labels_for_unavailable_models.
    """
    for model in models:
        for version in model.labels.values():
            if not allow_unavailable:
                raise failed_precondition(
                    f"Request to assign label to version {version} of model {model.name}, "
                    "which is not currently available for inference"
                )


def _check_names_and_paths(models: Sequence[ModelConfig]) -> None:
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
    for model in models:
        if not os.path.isabs(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def _check_platform(model: ModelConfig) -> None:
    named = model.model_platform
    if model.model_type != ModelType.MODEL_TYPE_UNSPECIFIED:
        if named:
            raise invalid_argument(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        if model.model_type != ModelType.TENSORFLOW:
            raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        named = PLATFORM
    if not named:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    if named != PLATFORM:
        raise invalid_argument(f"Model {model.name} requests unsupported platform {named}")


def _policy(model: ModelConfig) -> Policy:
    chosen = model.model_version_policy
    match chosen.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(chosen.specific.versions))
        case _:
            return Latest(max(chosen.latest.num_versions, 1))


def _parser_line(message: str) -> str:
    # Python's parser writes "1:36 : Expected ...", the C++ one "1:36: Expected ...".
    return f"Error parsing text-format {ModelServerConfig.DESCRIPTOR.full_name}: {re.sub(r'^(\d+:\d+) : ', r'\1: ', message)}"
