"""The settings of a TensorFlow Serving."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from gateway.errors import InvalidArgument
from gateway.servers.settings import ServerSettings, checked_address


class TFServingSettings(ServerSettings):
    """``endpoint``: host:port of its gRPC; a name may stand for several addresses, and they may change.

    ``model_config_file``: the file that the server reads, where it can be read here too; models come and go with it.
    ``batching_parameters_file``: the file that the server gets by its flag of that name. The server then batches all of
    its models, so requests for them are joined here too, up to its max_batch_size. Leave it out for a server that runs
    with ``--enable_per_model_batching_parameters``, which ignores the file's sizes.
    """

    kind: Literal["tfserving"]
    model_config_file: Path | None = None
    batching_parameters_file: Path | None = None

    @field_validator("batching_parameters_file")
    @classmethod
    def _can_be_understood(cls, value: Path | None) -> Path | None:
        if value is not None:
            # Not at the top: a supervisor of workers has no other use for protobuf.
            from gateway.codecs.batching_parameters import max_batch_size

            try:
                max_batch_size(value.read_text())
            except OSError as error:
                raise ValueError(f"{value}: {error.strerror}") from error
            except (UnicodeDecodeError, InvalidArgument) as error:
                raise ValueError(f"{value}: {error}; name the file that the server itself reads") from error
        return value

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return checked_address(f"//{value}", value, "host:port")
